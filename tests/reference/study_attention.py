"""The study's attention probe in PyTorch, one fit at a time, on prompts padded to one length."""

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

_PADDING = -10000.0  # the score of a padded position
# The first optimiser sets an environment variable; a test may not, so it happens on import.
torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])


def padded(x, starts, counts, length):
    """Tokens of prompts as [n, length, d], zeros behind the end."""
    found = np.zeros((len(starts), length, x.shape[1]), np.float32)
    for row, start, count in zip(found, starts, counts, strict=True):
        row[:count] = x[start : start + count]
    return torch.tensor(found)


class Probe(torch.nn.Module):
    """One or several heads; the study has one."""

    def __init__(self, queries, values):
        super().__init__()
        self.q = torch.nn.Parameter(torch.tensor(queries, dtype=torch.float32))
        self.v = torch.nn.Parameter(torch.tensor(values, dtype=torch.float32))
        self.b = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x):
        scores = x @ self.q.T
        scores = torch.where(scores == 0, torch.full_like(scores, _PADDING), scores)
        weights = torch.softmax(scores, dim=1)
        return (weights * (x @ self.v.T)).sum(dim=(1, 2)) + self.b


def fit(x_train, y_train, x_val, y_val, queries, values, *, rate=1e-4, steps=1000, patient=True):
    """Returns the probe of the best validation AUC, all validation AUCs and losses, one per step.

    Args:
      x_train: [n, length, d], padded with zeros.
      y_train: labels.
      x_val: validation rows.
      y_val: their labels.
      queries: [heads, d] at the start.
      values: likewise.
      rate: of Adam.
      steps: of Adam.
      patient: whether to go on when the validation AUC is 1.
    """
    probe = Probe(queries, values)
    optimiser = torch.optim.Adam(probe.parameters(), lr=rate)
    criterion = torch.nn.BCEWithLogitsLoss()
    target = torch.tensor(y_train, dtype=torch.float32)
    best, kept, aucs, losses = -1.0, None, [], []
    for _ in range(steps):
        with torch.no_grad():
            # Rounded, as equal areas may differ in the last bit, and the first one counts.
            auc = round(roc_auc_score(y_val, probe(x_val).numpy()), 12)
        if auc > best:
            best, kept = auc, {k: v.clone() for k, v in probe.state_dict().items()}
        optimiser.zero_grad()
        loss = criterion(probe(x_train), target)
        loss.backward()
        optimiser.step()
        aucs.append(auc)
        losses.append(loss.item())
        if best == 1 and not patient:
            break
    probe.load_state_dict(kept)
    return probe, np.array(aucs), np.array(losses)

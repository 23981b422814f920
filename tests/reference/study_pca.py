"""The study's probe on principal components for one training set, by scikit-learn.

`exact` replaces the study's randomised components by exact ones.
"""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from tests.reference.study_probes import folds


def grid(y, d):
    """The numbers of components, ascending."""
    if len(y) <= 3:
        return [len(y)]
    most = min(len(y), d, 100)
    return np.unique(np.logspace(0, np.log2(most), 10, base=2).astype(int)).tolist()


def components(x, seen, most, exact):
    """Components of all rows, learnt on those in `seen`."""
    scaler = StandardScaler().fit(x[seen])
    z = scaler.transform(x)
    most = min(most, len(z[seen]), x.shape[1])
    solver = "full" if exact else "auto"
    return PCA(most, svd_solver=solver, random_state=0).fit(z[seen]).transform(z)


def logistic(exact):
    """The study's settings, or tight ones that reach the minimum."""
    if exact:
        return LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    return LogisticRegression(random_state=42, max_iter=1000)


def probe(x, y, x_test, y_test, exact=True, strict=False):
    """Returns val_auc, the number of components, the validation AUCs and the test results."""
    n, numbers, parts, means = len(y), grid(y, x.shape[1]), folds(y), None
    number = min(n, x.shape[1])
    z = components(np.concatenate([x, x_test]), np.arange(n), min(n, 100), exact)
    if parts:
        aucs = np.zeros((len(parts), len(numbers)))
        for fold, (train, part) in enumerate(parts):
            own = components(x, train, min(n, 100), exact) if strict else z
            for i, each in enumerate(numbers):
                if len(set(y[train])) < 2:
                    aucs[fold, i] = 0.5
                    continue
                model = logistic(exact).fit(own[train, :each], y[train])
                aucs[fold, i] = roc_auc_score(y[part], model.decision_function(own[part, :each]))
        means = aucs.mean(axis=0)
        number = numbers[means.argmax()]
    model = logistic(exact).fit(z[:n, :number], y)
    logits = model.decision_function(z[n:, :number])
    alone = 0.5 if strict else roc_auc_score(y, model.decision_function(z[:n, :number]))
    return {
        "number": number,
        "means": means,
        "val_auc": alone if means is None else means.max(),
        "logits": logits,
        "test_auc": roc_auc_score(y_test, logits),
        "test_acc": accuracy_score(y_test, logits > 0),
        "test_f1": f1_score(y_test, logits > 0, average="weighted"),
    }

"""The study's nearest-neighbour probe for one training set (docs: paper part 2.2), by scikit-learn.

Features keep their precision, as the study's do: scikit-learn scales float32 in float32 and takes
the distances in float64.
"""

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from tests.reference.study_probes import folds


def grid(y):
    """The values of k, ascending."""
    if len(y) <= 3:
        return [1]
    most = min(len(y) - 1, 100, *(len(train) for train, _ in folds(y)))
    return np.unique(np.logspace(0, np.log2(most), 10, base=2).astype(int)).tolist()


def positive_share(x, y, queries, k):
    """Share of positives among the k nearest."""
    model = KNeighborsClassifier(k).fit(x, y)
    proba = model.predict_proba(queries)
    return proba[:, list(model.classes_).index(1)] if 1 in model.classes_ else np.zeros(len(proba))


def probe(x, y, x_test, y_test, strict=False):
    """Returns val_auc, k, the validation AUCs of the grid, and the test results."""
    scaler = StandardScaler().fit(x)
    z, z_test = scaler.transform(x), scaler.transform(x_test)
    ks, parts, means = grid(y), folds(y), None
    k = 1
    if parts:
        aucs = np.zeros((len(parts), len(ks)))
        for fold, (train, part) in enumerate(parts):
            own = StandardScaler().fit(x[train]).transform(x) if strict else z
            for i, each in enumerate(ks):
                share = positive_share(own[train], y[train], own[part], each)
                aucs[fold, i] = roc_auc_score(y[part], share)
        means = aucs.mean(axis=0)
        k = ks[means.argmax()]
    share = positive_share(z, y, z_test, k)
    alone = 0.5 if strict else roc_auc_score(y, positive_share(z, y, z, k))
    return {
        "k": k,
        "means": means,
        "val_auc": alone if means is None else means.max(),
        "share": share,
        "test_auc": roc_auc_score(y_test, share),
        "test_acc": accuracy_score(y_test, share > 0.5),
        "test_f1": f1_score(y_test, share > 0.5, average="weighted"),
    }

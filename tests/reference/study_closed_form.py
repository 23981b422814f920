"""The probes with nothing to choose, for one training set, in float64 and by scikit-learn."""

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from tests.reference.study_probes import folds


def mean_difference(x, y):
    """Returns w and b of the plane midway between the class means."""
    means = [x[y == label].mean(axis=0) for label in (0, 1)]
    w = means[1] - means[0]
    return w, -0.5 * w @ (means[0] + means[1])


def lda(x, y):
    """Returns w and b of the discriminant with a shrunk covariance.

    scikit-learn has no answer for one row per class, and its shrinkage is zero and its covariance
    singular for two; a diagonal covariance takes its place.
    """
    if max(np.bincount(y)) > 2:
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x, y)
        return model.coef_[0], model.intercept_[0]
    parts = [x[y == label] for label in (0, 1)]
    variance = sum(
        len(part) * np.where(np.ptp(part, axis=0), part.var(axis=0), 1) for part in parts
    )
    w = (parts[1].mean(axis=0) - parts[0].mean(axis=0)) / (variance / len(x))
    middle = 0.5 * w @ (parts[0].mean(axis=0) + parts[1].mean(axis=0))
    return w, np.log(len(parts[1]) / len(parts[0])) - middle


def probe(x, y, x_test, y_test, fit):
    """Returns val_auc, w, b, and AUC, accuracy and weighted F1 on the test rows."""
    aucs = []
    for train, part in folds(y):
        if len(set(y[train])) < 2:
            aucs.append(0.5)
            continue
        w, _ = fit(x[train], y[train])
        aucs.append(roc_auc_score(y[part], x[part] @ w))
    w, b = fit(x, y)
    logits = x_test @ w + b
    return {
        "val_auc": np.mean(aucs) if aucs else roc_auc_score(y, x @ w),
        "w": w,
        "b": b,
        "test_auc": roc_auc_score(y_test, logits),
        "test_acc": accuracy_score(y_test, logits > 0),
        "test_f1": f1_score(y_test, logits > 0, average="weighted"),
    }

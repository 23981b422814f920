"""The study's MLP probe for one training set, from docs/paper.md 2.2, by scikit-learn."""

import warnings

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from tests.reference.study_probes import folds


def classifier(n, seed=42, max_iter=1000):
    if n <= 3:
        return MLPClassifier((32,), max_iter=max_iter, random_state=seed)
    return MLPClassifier(
        (16, 16, 16), learning_rate_init=10**-2.5, alpha=0.01, max_iter=max_iter, random_state=seed
    )


def fit(x, y, n, seed=42, max_iter=1000):
    """Fits the network of a training set of n rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return classifier(n, seed, max_iter).fit(x, y)


def probe(x, y, x_test, y_test, seed=42):
    """Returns val_auc, test AUC, accuracy, weighted F1 and the number of epochs."""
    scaler, n = StandardScaler().fit(x), len(x)
    x, x_test = scaler.transform(x), scaler.transform(x_test)
    aucs = [
        roc_auc_score(y[part], fit(x[train], y[train], n, seed).predict_proba(x[part])[:, 1])
        for train, part in folds(y)
    ]
    model = fit(x, y, n, seed)
    p = model.predict_proba(x_test)[:, 1]
    return {
        "val_auc": np.mean(aucs) if aucs else roc_auc_score(y, model.predict_proba(x)[:, 1]),
        "test_auc": roc_auc_score(y_test, p),
        "test_acc": accuracy_score(y_test, p > 0.5),
        "test_f1": f1_score(y_test, p > 0.5, average="weighted"),
        "epochs": model.n_iter_,
    }

"""The study's xgboost probe for one training set, from docs/paper.md 2.2, with given draws."""

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

from tests.reference.study_probes import folds


def probe(x, y, x_test, y_test, draws, seed=42):
    """Returns val_auc, the number of the draw, and test AUC, accuracy, weighted F1 and margins."""
    scaler = StandardScaler().fit(x)
    x, x_test = scaler.transform(x), scaler.transform(x_test)

    def fit(rows, settings):
        common = {"eval_metric": "logloss", "random_state": seed, "n_jobs": 1}
        return XGBClassifier(**settings, **common).fit(x[rows], y[rows])

    best, val_auc, chosen = 0.0, None, None
    for number, settings in enumerate(draws) if folds(y, seed) else ():
        aucs = [
            roc_auc_score(y[part], fit(train, settings).predict_proba(x[part])[:, 1])
            for train, part in folds(y, seed)
        ]
        if np.mean(aucs) > best:
            best, chosen = np.mean(aucs), number
            val_auc = best
    final = fit(slice(None), {} if chosen is None else draws[chosen])
    margins = final.predict(x_test, output_margin=True)
    if chosen is None:
        val_auc = roc_auc_score(y, final.predict_proba(x)[:, 1])
    return {
        "val_auc": val_auc,
        "draw": np.nan if chosen is None else chosen,
        "margins": margins,
        "test_auc": roc_auc_score(y_test, margins),
        "test_acc": accuracy_score(y_test, margins > 0),
        "test_f1": f1_score(y_test, margins > 0, average="weighted"),
    }

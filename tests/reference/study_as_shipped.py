"""The study's probes for one training set with its own solvers and limits, converged or not.

The other files here hold the same rules with tight tolerances; these are for measuring time.
"""

import warnings

import numpy as np
from sklearn.linear_model import LogisticRegression

from probejax.probes import xgboost
from tests.reference import (
    study_closed_form,
    study_knn,
    study_mlp,
    study_pca,
    study_probes,
    study_xgboost,
)


def fit_lbfgs(x, y, C):
    """The study's fit on raw activations."""
    return _fit(LogisticRegression(C=C, max_iter=1000, random_state=1), x, y)


def fit_saga(x, y, C):
    """The study's fit on latents."""
    model = LogisticRegression(l1_ratio=1.0, C=C, solver="saga", max_iter=1000, random_state=1)
    return _fit(model, x, y)


def _fit(model, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the study silences what does not converge, too
        model.fit(x, y)
    return model.coef_[0], model.intercept_[0]


def probe(method, x, y, x_test, y_test):
    """Runs one method; x holds the chosen latents for `sae_k...`, else raw activations."""
    rows = x, y, x_test, y_test
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if method == "logreg":
            return study_probes.probe(*rows, fit_lbfgs)
        if method.startswith("sae_k"):
            return study_probes.probe(*rows, fit_saga)
        if method == "pca":
            return study_pca.probe(*rows, exact=False)
        if method == "xgboost":
            return study_xgboost.probe(*rows, xgboost.draws(42))
        if method in ("mean_difference", "lda"):
            return study_closed_form.probe(*rows, getattr(study_closed_form, method))
        return {"knn": study_knn, "mlp": study_mlp}[method].probe(*rows)


def encode(sae, x):
    """All latents of all rows, as the study keeps them."""
    pre = x @ np.asarray(sae.W_enc) + np.asarray(sae.b_enc)
    return np.where(pre > np.maximum(np.asarray(sae.threshold), 0), pre, 0)

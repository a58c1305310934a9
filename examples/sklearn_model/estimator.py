"""A model from `fedveil model export --to sklearn` as a scikit-learn pipeline: arrays in, no pickle, no Fedveil needed.

    python estimator.py model.npz          # prints the inputs that the pipeline wants, in order

The pipeline scales its inputs itself. Their order is that of `inputs`: a number as it is, and for NAME=VALUE a 1 where
the column NAME holds VALUE, else a 0. Missing values and clamping are up to you: docs/models.md says what a plan does.
"""

import pathlib
import sys

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelBinarizer, MinMaxScaler, StandardScaler


def load(path: pathlib.Path):
    """The pipeline: `predict`, and for classes `predict_proba`."""
    with np.load(path, allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    scaler = StandardScaler()
    scaler.mean_, scaler.scale_ = arrays["mean"], arrays["scale"]
    scaler.var_, scaler.n_features_in_ = scaler.scale_**2, len(scaler.mean_)
    model = _network(arrays) if "coefs_0" in arrays else _affine(arrays)
    if "target_range" in arrays:
        model = _natural(model, arrays["target_range"])
    return make_pipeline(scaler, model)


def _affine(arrays):
    if "classes" in arrays:
        model = LogisticRegression()
        model.classes_, model.coef_, model.intercept_ = arrays["classes"], arrays["coef"], arrays["intercept"]
    else:
        model = LinearRegression()
        model.coef_, model.intercept_ = arrays["coef"][0], float(arrays["intercept"][0])
    model.n_features_in_ = arrays["coef"].shape[1]
    return model


def _network(arrays):
    layers = sum(name.startswith("coefs_") for name in arrays)
    model = MLPClassifier() if "classes" in arrays else MLPRegressor()
    model.coefs_ = [arrays[f"coefs_{number}"] for number in range(layers)]
    model.intercepts_ = [arrays[f"intercepts_{number}"] for number in range(layers)]
    model.n_layers_, model.n_features_in_ = layers + 1, len(model.coefs_[0])
    model.n_outputs_ = len(model.intercepts_[-1])
    model.out_activation_ = "identity"
    if "classes" in arrays:
        model.classes_ = arrays["classes"]
        model._label_binarizer = LabelBinarizer().fit(model.classes_)
        model._label_binarizer.classes_ = model.classes_  # in the model's order, which need not be sorted
        model.out_activation_ = "logistic" if len(model.classes_) == 2 and model.n_outputs_ == 1 else "softmax"
    return model


def _natural(model, target_range):
    """A model of a target scaled to [-1, 1] answers in natural units."""
    lo, hi = target_range
    natural = TransformedTargetRegressor(model, transformer=MinMaxScaler((-1, 1)), check_inverse=False)
    natural.regressor_, natural._training_dim = model, 1
    natural.transformer_ = MinMaxScaler((-1, 1)).fit([[lo], [hi]])
    return natural


if __name__ == "__main__":
    with np.load(pathlib.Path(sys.argv[1]), allow_pickle=False) as given:
        print("\n".join(given["inputs"].tolist()))
    print(load(pathlib.Path(sys.argv[1])))

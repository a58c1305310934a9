"""An estimator of scikit-learn as it is: what it learns are `coef_` and `intercept_`."""

from sklearn.linear_model import SGDClassifier


def model():
    """Logistic regression by stochastic gradient descent. Loss, penalty and learning rate are the estimator's own."""
    return SGDClassifier(loss="log_loss", alpha=1e-4, learning_rate="constant", eta0=0.05, random_state=0)

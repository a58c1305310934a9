"""A client written for Flower, unchanged: nothing in this file knows of Fedveil but the name of the data's path."""

import numpy as np
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import Context


class Regression(NumPyClient):
    """Logistic regression in numpy."""

    def __init__(self, inputs, target, epochs, rate):
        self.inputs, self.target, self.epochs, self.rate = inputs, target, epochs, rate
        self.weights, self.bias = np.zeros((1, inputs.shape[1])), np.zeros(1)

    def get_parameters(self, config):
        return [self.weights, self.bias]

    def set_parameters(self, parameters):
        self.weights, self.bias = parameters

    def fit(self, parameters, config):
        self.set_parameters(parameters)
        for _ in range(self.epochs):
            error = self.predict(self.inputs) - self.target
            self.weights = self.weights - self.rate * (error @ self.inputs)[np.newaxis] / len(error)
            self.bias = self.bias - self.rate * error.mean()
        return self.get_parameters({}), len(self.target), {"train_loss": 0.0}

    def evaluate(self, parameters, config):
        self.set_parameters(parameters)
        right = (self.predict(self.inputs) > 0.5) == (self.target > 0.5)
        return 1.0 - float(right.mean()), len(self.target), {"accuracy": float(right.mean())}

    def predict(self, inputs):
        return 1.0 / (1.0 + np.exp(-(inputs @ self.weights[0] + self.bias[0])))


def client_fn(context: Context):
    with np.load(context.node_config["data-path"]) as data:
        inputs, target = data["inputs"], data["target"]
    epochs, rate = int(context.run_config["local-epochs"]), float(context.run_config["learning-rate"])
    return Regression(inputs, target, epochs, rate).to_client()


app = ClientApp(client_fn=client_fn)

"""A small network in PyTorch under differential privacy of single records: the gradient of every record by itself.

The plan's `parameters` are those of the layers in order, each its weights row by row and then its bias, as torch's
`parameters()` gives them. With torch 2 `torch.func` does it; torch 1.13 has the same in the package functorch; without
either the rows are gone through one by one, which is slower and comes to the same.
"""

import numpy as np
import torch

try:
    from torch.func import functional_call, grad, vmap
except ImportError:
    try:
        from functorch import grad, make_functional, vmap
    except ImportError:
        grad = make_functional = vmap = None
    functional_call = None

HIDDEN = 8


def layers(inputs, outputs):
    """No batch normalisation: it would make a record's gradient depend on other records, which is found and refused."""
    return torch.nn.Sequential(torch.nn.Linear(inputs, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, outputs))


class Network:
    """One hidden layer, for a binary target."""

    def gradients(self, job):
        """The slope of each row's log-loss: shape (rows, parameters)."""
        torch.set_num_threads(1)
        network = filled(layers(job.inputs.shape[1], job.output_count), job.model)
        inputs = torch.tensor(job.inputs, dtype=torch.float64)
        target = torch.tensor(job.target, dtype=torch.float64)
        if functional_call is not None:
            values = {name: value.detach() for name, value in network.named_parameters()}

            def loss(values, row, wanted):
                return log_loss(functional_call(network, values, (row[None],)), wanted)

            each = list(vmap(grad(loss), in_dims=(None, 0, 0))(values, inputs, target).values())
        elif make_functional is not None:
            function, values = make_functional(network)

            def loss(values, row, wanted):
                return log_loss(function(values, row[None]), wanted)

            each = vmap(grad(loss), in_dims=(None, 0, 0))(tuple(one.detach() for one in values), inputs, target)
        else:
            each = one_by_one(network, inputs, target)
        return torch.cat([one.reshape(len(inputs), -1) for one in each], dim=1).detach().numpy()

    def outputs(self, job):
        """The logit of each row: shape (rows, 1)."""
        network = filled(layers(job.inputs.shape[1], job.output_count), job.model)
        with torch.no_grad():
            return network(torch.tensor(job.inputs, dtype=torch.float64)).numpy()


def filled(network, model):
    """`network` in float64 with the parameters received."""
    network = network.double()
    torch.nn.utils.vector_to_parameters(torch.tensor(np.array(model), dtype=torch.float64), network.parameters())
    return network


def log_loss(logit, wanted):
    """Of one row: log(1 + e^t) - y t."""
    return torch.nn.functional.softplus(logit[0, 0]) - wanted * logit[0, 0]


def one_by_one(network, inputs, target):
    """For each parameter its slopes, row after row."""
    found = [[] for _ in network.parameters()]
    for row, wanted in zip(inputs, target, strict=True):
        loss = log_loss(network(row[None]), wanted)
        for kept, slope in zip(found, torch.autograd.grad(loss, list(network.parameters())), strict=True):
            kept.append(slope)
    return [torch.stack(kept) for kept in found]

"""A module of PyTorch as it is, for the adapter `torch`: rows in, raw outputs out. Fedveil's shim trains it."""

import torch


def module():
    """One hidden layer, for three inputs and a binary target."""
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)).double()

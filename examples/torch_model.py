"""A PyTorch module, called on the host: slower than a JAX port, and on one device only."""

import torch
from torch import nn


def build():
    """Returns a small convolutional network with ten classes, channels first."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=4),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )

"""A Flax Linen module."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Network(nn.Module):
    """A small convolutional network with ten classes."""

    @nn.compact
    def __call__(self, images, train):
        hidden = nn.Conv(16, (5, 5), 4)(2.0 * images - 1.0)
        hidden = nn.relu(nn.BatchNorm(use_running_average=not train)(hidden))
        return nn.Dense(10)(5.0 * nn.relu(nn.Conv(32, (3, 3), 2)(hidden)).mean((1, 2)))


def build():
    """Returns the module and its variables."""
    module = Network()
    return module, module.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)

"""An Equinox module for one image, channels first."""

import equinox as eqx
import jax


class Network(eqx.Module):
    """A small convolutional network with ten classes."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.first = eqx.nn.Conv2d(3, 16, 5, 4, key=keys[0])
        self.second = eqx.nn.Conv2d(16, 32, 3, 2, key=keys[1])
        self.head = eqx.nn.Linear(32, 10, key=keys[2])

    def __call__(self, image):
        hidden = jax.nn.relu(self.second(jax.nn.relu(self.first(2.0 * image - 1.0))))
        return self.head(9.0 * hidden.mean((1, 2)))


def build():
    """Returns the module."""
    return Network(jax.random.key(0))

"""A Flax NNX module."""

from flax import nnx


class Network(nnx.Module):
    """A small convolutional network with ten classes."""

    def __init__(self, rngs):
        self.first = nnx.Conv(3, 16, (5, 5), strides=4, rngs=rngs)
        self.second = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, images):
        hidden = nnx.relu(self.second(nnx.relu(self.first(2.0 * images - 1.0))))
        return self.head(self.dropout(9.0 * hidden.mean((1, 2))))


def build():
    """Returns the module."""
    return Network(nnx.Rngs(0))

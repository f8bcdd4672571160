"""AlexNet for inference, in the variant of torchvision: one tower, no response normalisation.

Source: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.
"""

from typing import NamedTuple

import flax.linen as nn
import jax

from cfx_jax.classifiers.layers import Conv, adaptive_mean_pool, flatten


class ConvLayer(NamedTuple):
    """A convolution, followed by a 3x3 max pool of stride 2 if `pool` is set."""

    features: int
    kernel: int
    stride: int
    padding: int
    pool: bool


LAYERS = (
    ConvLayer(features=64, kernel=11, stride=4, padding=2, pool=True),
    ConvLayer(features=192, kernel=5, stride=1, padding=2, pool=True),
    ConvLayer(features=384, kernel=3, stride=1, padding=1, pool=False),
    ConvLayer(features=256, kernel=3, stride=1, padding=1, pool=False),
    ConvLayer(features=256, kernel=3, stride=1, padding=1, pool=True),
)


class AlexNet(nn.Module):
    """Network from normalised RGB images `[N, H, W, 3]` to logits `[N, num_classes]`.

    Attributes:
        hidden_features: width of the two dense layers before the last.
        num_classes: number of classes.
    """

    hidden_features: int = 4096
    num_classes: int = 1000

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits before softmax, float32 `[N, num_classes]`."""
        hidden = images
        for index, layer in enumerate(LAYERS):
            conv = Conv(
                layer.features, layer.kernel, layer.stride, layer.padding, name=f"conv_{index}"
            )
            hidden = nn.relu(conv(hidden))
            if layer.pool:
                hidden = nn.max_pool(hidden, (3, 3), (2, 2))
        hidden = flatten(adaptive_mean_pool(hidden, size=6))
        hidden = nn.relu(nn.Dense(self.hidden_features, name="dense_0")(hidden))
        hidden = nn.relu(nn.Dense(self.hidden_features, name="dense_1")(hidden))
        return nn.Dense(self.num_classes, name="classifier")(hidden)

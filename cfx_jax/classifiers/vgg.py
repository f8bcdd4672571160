"""VGG for inference; batch normalisation, if any, is folded into the convolutions.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", ICLR 2015.
"""

import flax.linen as nn
import jax

from cfx_jax.classifiers.layers import Conv, adaptive_mean_pool, flatten, tiled_max_pool

VGG16 = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)
VGG19 = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)


class VGG(nn.Module):
    """Network from normalised RGB images `[N, H, W, 3]` to logits `[N, num_classes]`.

    Attributes:
        stages: channels of the 3x3 convolutions of each stage; a stage ends with a 2x2 max pool.
        hidden_features: width of the two dense layers before the last.
        num_classes: number of classes.
    """

    stages: tuple[tuple[int, ...], ...]
    hidden_features: int = 4096
    num_classes: int = 1000

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits before softmax, float32 `[N, num_classes]`."""
        hidden = images
        for index, stage in enumerate(self.stages):
            for layer, features in enumerate(stage):
                conv = Conv(features, 3, 1, 1, name=f"stage_{index}_conv_{layer}")
                hidden = nn.relu(conv(hidden))
            hidden = tiled_max_pool(hidden, 2)
        hidden = flatten(adaptive_mean_pool(hidden, size=7))
        hidden = nn.relu(nn.Dense(self.hidden_features, name="dense_0")(hidden))
        hidden = nn.relu(nn.Dense(self.hidden_features, name="dense_1")(hidden))
        return nn.Dense(self.num_classes, name="classifier")(hidden)

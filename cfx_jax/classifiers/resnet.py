"""ResNet v1.5 for inference: the 3x3 convolution of a bottleneck strides, not its first 1x1.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfx_jax.classifiers.layers import Conv

STEM_FEATURES = 64
EXPANSION = 4


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1.

    Attributes:
        features: channels inside of the block; a bottleneck gives four times as many.
        stride: step of the block.
        bottleneck: which of the two.
    """

    features: int
    stride: int
    bottleneck: bool

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to `[N, ceil(H / stride), ceil(W / stride), features or 4 times]`."""
        if self.bottleneck:
            out = EXPANSION * self.features
            hidden = nn.relu(Conv(self.features, name="conv1")(images))
            hidden = nn.relu(Conv(self.features, 3, self.stride, 1, name="conv2")(hidden))
            hidden = Conv(out, name="conv3")(hidden)
        else:
            out = self.features
            hidden = nn.relu(Conv(out, 3, self.stride, 1, name="conv1")(images))
            hidden = Conv(out, 3, 1, 1, name="conv2")(hidden)
        if hidden.shape != images.shape:
            images = Conv(out, 1, self.stride, name="downsample")(images)
        return nn.relu(hidden + images)


class ResNet(nn.Module):
    """Maps normalised RGB images `[N, H, W, 3]` to logits `[N, num_classes]`.

    Attributes:
        stage_sizes: blocks in each stage; every stage after the first halves the resolution and
            doubles the channels.
        bottleneck: the kind of block.
        num_classes: length of the logits.
    """

    stage_sizes: tuple[int, ...]
    bottleneck: bool
    num_classes: int = 1000

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits before softmax, float32 `[N, num_classes]`."""
        hidden = nn.relu(Conv(STEM_FEATURES, 7, 2, 3, name="conv1")(images))
        hidden = nn.max_pool(hidden, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, size in enumerate(self.stage_sizes):
            for block in range(size):
                stride = 2 if stage > 0 and block == 0 else 1
                hidden = Block(
                    STEM_FEATURES * 2**stage,
                    stride,
                    self.bottleneck,
                    name=f"stage_{stage}_block_{block}",
                )(hidden)
        return nn.Dense(self.num_classes, name="classifier")(jnp.mean(hidden, axis=(1, 2)))

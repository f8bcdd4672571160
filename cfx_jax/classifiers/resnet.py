"""ResNet v1.5 for inference: the stride of a bottleneck is in its 3x3, not its first 1x1.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; the deep stem and the
averaging shortcuts are from He et al., "Bag of Tricks", CVPR 2019 (ResNet-D).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfx_jax.classifiers.layers import Conv, halve

FEATURES = 64
EXPANSION = 4


class ResNetBlock(nn.Module):
    """A residual block: two 3x3 convolutions, or a bottleneck of 1x1, 3x3 and 1x1.

    Attributes:
        features: number of channels inside the block; the output of a bottleneck has four times as
            many.
        stride: stride of the block.
        bottleneck: whether the block is a bottleneck.
        pooled_downsample: whether the shortcut averages pixels, see `ResNet`.
    """

    features: int
    stride: int
    bottleneck: bool
    pooled_downsample: bool

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to `[N, ceil(H / stride), ceil(W / stride), features * (1 or 4)]`."""
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
            images = self._downsample(images, out)
        return nn.relu(hidden + images)

    def _downsample(self, images: jax.Array, out: int) -> jax.Array:
        if not self.pooled_downsample:
            return Conv(out, 1, self.stride, name="downsample")(images)
        if self.stride == 2:
            images = halve(images)
        return Conv(out, name="pooled_downsample")(images)


class ResNet(nn.Module):
    """Network from normalised RGB images `[N, H, W, 3]` to logits `[N, num_classes]`.

    Attributes:
        stage_sizes: number of blocks in each stage; every stage after the first halves the
            resolution and doubles the channels.
        bottleneck: whether the blocks are bottlenecks.
        num_classes: number of classes.
        stem_features: number of channels of each 3x3 convolution of a deep stem; () for a stem of
            one 7x7 convolution.
        pooled_downsample: whether shortcuts that halve the resolution average 2x2 pixels, instead
            of selecting one of them.
    """

    stage_sizes: tuple[int, ...]
    bottleneck: bool
    num_classes: int = 1000
    stem_features: tuple[int, ...] = ()
    pooled_downsample: bool = False

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits before softmax, float32 `[N, num_classes]`."""
        hidden = images
        for index, features in enumerate(self.stem_features):
            hidden = nn.relu(Conv(features, 3, 1 if index else 2, 1, name=f"stem_{index}")(hidden))
        if not self.stem_features:
            hidden = nn.relu(Conv(FEATURES, 7, 2, 3, name="conv1")(hidden))
        hidden = nn.max_pool(hidden, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, size in enumerate(self.stage_sizes):
            for block in range(size):
                stride = 2 if stage > 0 and block == 0 else 1
                hidden = ResNetBlock(
                    FEATURES * 2**stage,
                    stride,
                    self.bottleneck,
                    self.pooled_downsample,
                    name=f"stage_{stage}_block_{block}",
                )(hidden)
        return nn.Dense(self.num_classes, name="classifier")(jnp.mean(hidden, axis=(1, 2)))

"""EfficientNet-Lite0 to Lite2 for inference: MBConv blocks with ReLU6, no squeeze-and-excitation.

Source: Tan and Le, EfficientNet, ICML 2019; the Lite variants replace swish by ReLU6 and drop
squeeze-and-excitation, and keep stem, head and the depth of the first and last stage unscaled.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfx_jax.classifiers.base import NORMALIZATIONS
from cfx_jax.classifiers.layers import Conv, Depthwise


class Stage(NamedTuple):
    """A sequence of MBConv blocks; only the first applies the stride and changes the width."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    features: int


_STAGES = (
    Stage(repeats=1, kernel=3, stride=1, expand=1, features=16),
    Stage(repeats=2, kernel=3, stride=2, expand=6, features=24),
    Stage(repeats=2, kernel=5, stride=2, expand=6, features=40),
    Stage(repeats=3, kernel=3, stride=2, expand=6, features=80),
    Stage(repeats=3, kernel=5, stride=1, expand=6, features=112),
    Stage(repeats=4, kernel=5, stride=2, expand=6, features=192),
    Stage(repeats=1, kernel=3, stride=1, expand=6, features=320),
)
STEM_FEATURES = 32
HEAD_FEATURES = 1280
NORMALIZATION = NORMALIZATIONS["symmetric"]
"""Normalisation to [-1, 1]: Lite0 has 81.5 % top-1 accuracy, with ImageNet statistics 74.0 %."""


class MBConv(nn.Module):
    """Inverted bottleneck: expand 1x1, depthwise, project 1x1, with a residual for equal shapes."""

    kernel: int
    stride: int
    expand: int
    features: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to `[N, ceil(H / stride), ceil(W / stride), features]`."""
        hidden = images
        if self.expand != 1:
            hidden = nn.relu6(Conv(images.shape[-1] * self.expand, name="expand")(hidden))
        hidden = nn.relu6(Depthwise(self.kernel, self.stride, name="depthwise")(hidden))
        hidden = Conv(self.features, name="project")(hidden)
        return hidden + images if hidden.shape == images.shape else hidden


class EfficientNetLite(nn.Module):
    """Network from normalised RGB images `[N, H, W, 3]` to logits `[N, num_classes]`.

    Attributes:
        num_classes: number of classes.
        width: factor for the number of channels, which is rounded to a multiple of 8.
        depth: factor for the number of blocks of all stages but the first and the last, rounded up.
    """

    num_classes: int = 1000
    width: float = 1.0
    depth: float = 1.0

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of this variant."""
        ends = (0, len(_STAGES) - 1)
        return tuple(
            stage._replace(
                repeats=stage.repeats if i in ends else math.ceil(self.depth * stage.repeats),
                features=_round_to_eights(self.width * stage.features),
            )
            for i, stage in enumerate(_STAGES)
        )

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits before softmax, float32 `[N, num_classes]`."""
        hidden = nn.relu6(Conv(STEM_FEATURES, 3, 2, None, name="stem")(images))
        index = 0
        for number, stage in enumerate(self.stages):
            for repeat in range(stage.repeats):
                hidden = MBConv(
                    stage.kernel,
                    stage.stride if repeat == 0 else 1,
                    stage.expand,
                    stage.features,
                    name=f"block_{index}",
                )(hidden)
                index += 1
            # This has no cost unless the intermediates are collected.
            self.sow("intermediates", f"stage_{number}", hidden)
        hidden = nn.relu6(Conv(HEAD_FEATURES, name="head")(hidden))
        pooled = jnp.mean(hidden, axis=(1, 2))
        self.sow("intermediates", "pooled", pooled)
        return nn.Dense(self.num_classes, name="classifier")(pooled)


def features(params: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Computes intermediate features of EfficientNet-Lite0.

    Args:
        params: parameters of a `Classifier` loaded as `"efficientnet_lite0"`.
        images: RGB images of any size, float32 `[N, H, W, 3]` in [0, 1].

    Returns:
        Features by name: `stage_0` to `stage_6`, float32 `[N, h, w, features]` after each stage, at
        1/2, 1/4, 1/8, 1/16, 1/16, 1/32 and 1/32 of the resolution; `pooled`, float32 `[N, 1280]`,
        the mean over the image of the last features.
    """
    _, collected = EfficientNetLite().apply(
        {"params": params}, NORMALIZATION(images), mutable=["intermediates"]
    )
    return {name: value[0] for name, value in collected["intermediates"].items()}


def _round_to_eights(channels: float) -> int:
    """Rounds to a multiple of 8 that is at least 90 % of the value."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded

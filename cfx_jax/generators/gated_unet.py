"""A small gated U-Net that corrects a closed-form multi-scale fill of the kept pixels.

Arrays are channels-last, images and in-fills `[N, H, W, C]` in [0, 1], masks `[N, H, W, 1]` with
1 = keep. The fill interpolates the kept pixels at every scale (`push_pull`), so the network learns
only the residual, and an untrained network already interpolates. At the end, a few learnt linear
filters run in sequence at full resolution, and kept pixels are restored before each filter, as in
an iterative solver of a differential equation. The filters make the residual continuous with kept
neighbours.

Every 3 x 3 convolution of the U-Net is gated, `features * sigmoid(gate)`, so that the network
learns where its input is valid (Yu et al., "Free-Form Image Inpainting with Gated Convolution",
ICCV 2019). Differs from it in a residual on the fill, added skips and no normalisation.
"""

from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfx_jax.generators.losses import hole_l1

GREY = 0.5
IMAGE_CHANNELS = 3
# Features at 1/2, 1/4, 1/8 and 1/16 of the resolution. The U-Net does not run at full resolution,
# where a convolution of 8 channels takes as long on CPU as one of 48 channels at half resolution.
WIDTHS = (24, 48, 88, 112)
DILATIONS = (2, 4)
SIZE_MULTIPLE = 2 ** len(WIDTHS)
NUM_FILTERS = 4


class GatedUNet(nn.Module):
    """Network that corrects the multi-scale fill of a masked image.

    Parameters are float32: 1.14e6, and 1.18e9 multiply-adds for an image of 224 x 224.

    Attributes:
        stochastic: whether an image of noise is a further input, so that several in-fills of a hole
            can differ.
    """

    stochastic: bool = False

    @nn.compact
    def __call__(self, images: jax.Array, mask: jax.Array, key: jax.Array) -> jax.Array:
        """Fills holes.

        Args:
            images: images of any size, float32 `[N, H, W, 3]` in [0, 1]; pixels in holes are
                ignored.
            mask: binary mask, float32 `[N, H, W, 1]`, 1 = keep.
            key: random key of the noise; ignored unless stochastic.

        Returns:
            Filled images, float32 `[N, H, W, 3]`, in [0, 1] up to rounding; kept pixels are
            unchanged. An untrained network returns the multi-scale fill.
        """
        height, width = images.shape[1:3]
        # Padding beyond the border counts as a hole.
        border = ((0, 0), (0, -height % SIZE_MULTIPLE), (0, -width % SIZE_MULTIPLE), (0, 0))
        mask = jnp.pad(mask, border)
        kept = mask * (jnp.pad(images, border) - GREY)
        inputs = [push_pull(kept, mask), mask - 0.5]
        if self.stochastic:
            inputs.append(_noise(key, mask.shape).astype(mask.dtype))
        folded = [fold(array) for array in inputs]
        fill = folded[0]
        residual = UNet(name="unet")(jnp.concatenate(folded, axis=-1))
        # From here on all arrays are folded: four pixels of three colours are twelve channels.
        hole = fold(jnp.broadcast_to(1.0 - mask, kept.shape))
        kept = fold(kept)
        filled = kept + hole * (fill + residual)
        for index in range(NUM_FILTERS):
            change = nn.Conv(
                filled.shape[-1],
                (3, 3),
                use_bias=False,
                kernel_init=nn.initializers.zeros,
                name=f"filter_{index}",
            )(filled)
            # Clip to the range of pixels, because a chain of linear filters may grow without bound.
            filled = kept + hole * jnp.clip(filled + change, -GREY, 1.0 - GREY)
        return unfold(filled)[:, :height, :width] + GREY


class UNet(nn.Module):
    """Network from folded inputs to a folded residual, both at half the resolution of the image."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]`, H and W multiples of 8, to `[N, H, W, 12]`."""
        hidden = GatedConv(WIDTHS[0], name="stem")(inputs)
        skips = []
        for level, features in enumerate(WIDTHS[:-1]):
            hidden += GatedConv(features, name=f"encode_{level}")(hidden)
            skips.append(hidden)
            hidden = GatedConv(WIDTHS[level + 1], stride=2, name=f"down_{level}")(hidden)
        for dilation in DILATIONS:
            hidden += GatedConv(WIDTHS[-1], dilation=dilation, name=f"middle_{dilation}")(hidden)
        for level, features in reversed(list(enumerate(WIDTHS[:-1]))):
            narrow = nn.Dense(features, name=f"up_{level}")(hidden)
            hidden = skips[level] + double(narrow)
            hidden += GatedConv(features, name=f"decode_{level}")(hidden)
        residual = nn.Conv(
            4 * IMAGE_CHANNELS, (3, 3), kernel_init=nn.initializers.zeros, name="residual"
        )
        return residual(hidden)


class GatedConv(nn.Module):
    """A 3 x 3 convolution to `2 * features` channels: one half times the sigmoid of the other."""

    features: int
    stride: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Maps `[N, H, W, C]` to `[N, H / stride, W / stride, features]`."""
        both = nn.Conv(
            2 * self.features,
            (3, 3),
            strides=self.stride,
            kernel_dilation=self.dilation,
            name="conv",
        )(hidden)
        return both[..., : self.features] * nn.sigmoid(both[..., self.features :])


def init(key: jax.Array, *, stochastic: bool = False) -> dict[str, Any]:
    """Returns the parameters of a new network."""
    images = jnp.zeros((1, SIZE_MULTIPLE, SIZE_MULTIPLE, IMAGE_CHANNELS))
    variables = GatedUNet(stochastic).init(key, images, images[..., :1], key)
    return cast(dict[str, Any], variables["params"])


def loss(
    params: Any, images: jax.Array, mask: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Computes the mean absolute error inside the holes.

    Args:
        params: parameters from `init`.
        images: true images, float32 `[N, H, W, 3]` RGB in [0, 1].
        mask: binary mask, float32 `[N, H, W, 1]`, 1 = keep.
        key: random key of the noise of a stochastic network.

    Returns:
        `(loss, infills, terms)`, see `cfx_jax.generators.Loss`; `terms` is empty.
    """
    network = _network(params)
    infills = cast(jax.Array, network.apply({"params": params}, images, mask, key))
    return hole_l1(infills, images, mask), infills, {}


def apply(params: Any, images: jax.Array, mask: jax.Array, key: jax.Array) -> jax.Array:
    """Fills holes with a trained network; follows the interface of `Generator.apply`.

    Args:
        params: trained parameters.
        images: images of any size, float32 `[N, H, W, C]` in [0, 1]; C is 3, or 1 for grey images,
            which are filled as grey RGB images.
        mask: binary mask, float32 `[N, H, W, 1]`, 1 = keep.
        key: random key of the noise of a stochastic network; ignored by other networks.

    Returns:
        In-fills, float32, the shape of `images`, in [0, 1], equal to `images` where the mask keeps.

    Raises:
        ValueError: the images have neither 1 nor 3 channels.

    Example:
        >>> import jax
        >>> images, mask = jax.numpy.zeros((1, 32, 32, 3)), jax.numpy.ones((1, 32, 32, 1))
        >>> params = jax.jit(init)(jax.random.key(0))
        >>> jax.jit(apply)(params, images, mask, jax.random.key(1)).shape
        (1, 32, 32, 3)
    """
    channels = images.shape[-1]
    if channels not in (1, IMAGE_CHANNELS):
        raise ValueError(
            f"images have shape {images.shape}; expected [N, H, W, 3], or [N, H, W, 1] for grey "
            "images: convert them to RGB"
        )
    colour = jnp.broadcast_to(images, (*images.shape[:3], IMAGE_CHANNELS))
    network = _network(params)
    filled = cast(jax.Array, network.apply({"params": params}, colour, mask, key))
    if channels == 1:
        filled = filled.mean(axis=-1, keepdims=True)
    return jnp.where(mask > 0.5, images, jnp.clip(filled, 0.0, 1.0))


def push_pull(kept: jax.Array, mask: jax.Array) -> jax.Array:
    """Fills holes from the finest scale at which a pixel is kept nearby.

    On the way up the pyramid, a coarse pixel is the mean of the kept pixels among its 2 x 2 pixels,
    and is kept if any of them is kept. On the way down, holes get the bilinearly upsampled coarser
    image, then the mean of their four neighbours. The fill is zero if no pixel is kept.

    Args:
        kept: kept pixels, float `[N, H, W, C]`, any size, zero in the holes.
        mask: binary mask `[N, H, W, 1]`, 1 = keep.

    Returns:
        The filled images, equal to `kept` where the mask is 1.
    """
    height, width = mask.shape[1:3]
    if height == width == 1:
        return kept
    both = jnp.concatenate([kept, mask], axis=-1)
    both = jnp.pad(both, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    # Four strided slices fuse into one pass; a windowed sum would not.
    total = both[:, ::2, ::2] + both[:, 1::2, ::2] + both[:, ::2, 1::2] + both[:, 1::2, 1::2]
    mean = total[..., :-1] / jnp.maximum(total[..., -1:], 1.0)
    coarse = double(push_pull(mean, jnp.minimum(total[..., -1:], 1.0)))
    filled = kept + (1.0 - mask) * coarse[:, :height, :width]
    return kept + (1.0 - mask) * _mean_of_neighbours(filled)


def _network(params: Any) -> GatedUNet:
    """Returns the network that fits the parameters; a stochastic network has a larger stem."""
    inputs = params["unet"]["stem"]["conv"]["kernel"].shape[2]
    return GatedUNet(stochastic=inputs > 4 * (IMAGE_CHANNELS + 1))


def _noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws each image with a separate key, so that it does not depend on the rest of the batch."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(shape[0]))
    return jax.vmap(lambda key: jax.random.normal(key, shape[1:], jnp.float32))(keys)


def _mean_of_neighbours(images: jax.Array) -> jax.Array:
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
    columns = padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return 0.25 * (rows + columns)


def double(images: jax.Array) -> jax.Array:
    """Upsamples `[N, H, W, C]` to `[N, 2H, 2W, C]`: bilinear, half-pixel centres.

    The result equals `jax.image.resize(images, shape, "linear")`, which multiplies with dense
    matrices; with that function, the network takes 1.1 times as long on CPU (forward, 8 x 224 x
    224, medians of 25 pairs).
    """
    return _double_axis(_double_axis(images, 1), 2)


def _double_axis(images: jax.Array, axis: int) -> jax.Array:
    edge = [(1, 1) if i == axis else (0, 0) for i in range(images.ndim)]
    padded = jnp.pad(images, edge, mode="edge")
    size = images.shape[axis]
    before = jax.lax.slice_in_dim(padded, 0, size, axis=axis)
    after = jax.lax.slice_in_dim(padded, 2, size + 2, axis=axis)
    pair = jnp.stack([0.75 * images + 0.25 * before, 0.75 * images + 0.25 * after], axis + 1)
    return pair.reshape([2 * n if i == axis else n for i, n in enumerate(images.shape)])


def fold(images: jax.Array) -> jax.Array:
    """Moves every 2 x 2 pixels into channels: `[N, H, W, C]` to `[N, H / 2, W / 2, 4 C]`."""
    n, height, width, channels = images.shape
    cells = images.reshape(n, height // 2, 2, width // 2, 2, channels)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(n, height // 2, width // 2, 4 * channels)


def unfold(cells: jax.Array) -> jax.Array:
    """Moves channels back into 2 x 2 pixels, the inverse of `fold`."""
    n, height, width, channels = cells.shape
    images = cells.reshape(n, height, width, 2, 2, channels // 4)
    return images.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * height, 2 * width, channels // 4)

"""Filling holes at half the resolution of the image, in a third of the time."""

import jax
import jax.numpy as jnp

from cfx_jax.generators.base import Generator
from cfx_jax.generators.gated_unet import double


def infill_at_half_resolution(
    generator: Generator, images: jax.Array, mask: jax.Array, key: jax.Array
) -> jax.Array:
    """Fills the holes of images at half their resolution and enlarges the in-fill bilinearly.

    The images are averaged over 2 x 2 pixels. A pixel of a small image is kept if all four pixels
    are kept.

    Args:
        generator: fills the holes of the small images.
        images: float32 `[N, H, W, C]` in [0, 1], any size.
        mask: binary mask, float32 `[N, H, W, 1]`, 1 = keep.
        key: random key of a stochastic generator.

    Returns:
        float32 `[N, H, W, C]`, equal to `images` where the mask keeps.
    """
    height, width = mask.shape[1:3]
    a, b, c, d = _four_pixels(images)
    small_images = 0.25 * (a + b + c + d)
    a, b, c, d = _four_pixels(mask)
    small_mask = a * b * c * d
    infills = double(generator.apply(generator.params, small_images, small_mask, key))
    return jnp.where(mask > 0.5, images, infills[:, :height, :width])


def _four_pixels(images: jax.Array) -> list[jax.Array]:
    """Returns the pixels of all cells of 2 x 2 pixels, four arrays `[N, H / 2, W / 2, C]`."""
    height, width = images.shape[1:3]
    # The border of an odd side is repeated.
    even = jnp.pad(images, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return [even[:, row::2, column::2] for row in (0, 1) for column in (0, 1)]

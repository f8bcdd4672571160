"""Fills the holes of images without explaining them."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax import numerics
from cfx_jax.generators.base import Generator
from cfx_jax.generators.checks import (
    check_images,
    check_infills,
    check_key,
    check_mask,
    check_pixels,
    check_range,
)

Array = TypeVar("Array", jax.Array, np.ndarray)


@numerics.jax_config(numerics.API_CONFIG)
def infill(
    key: jax.Array | int,
    generator: Generator,
    images: jax.Array | np.ndarray,
    mask: jax.Array | np.ndarray,
) -> jax.Array:
    """Fills the holes of images with a generator.

    Computes `mask * images + (1 - mask) * generator(images, round(mask))`, as in the learning of a
    mask.

    Args:
        key: random key or seed, for stochastic generators.
        generator: generator from `cfx_jax.load_generator`, or your own.
        images: images, float32 `[N, H, W, C]` in [0, 1].
        mask: masks, float32 `[N, H, W, 1]` in [0, 1], 1 = keep, 0 = fill.

    Returns:
        In-filled images, float32 `[N, H, W, C]`. A mask of ones returns the image, a mask of zeros
        the fully in-filled image.

    Raises:
        ValueError: an argument is invalid; the message contains the expected value and a remedy.

    Example:
        >>> import cfx_jax, jax, jax.numpy as jnp
        >>> generator = cfx_jax.load_generator("local_mean")
        >>> images, mask = jnp.full((1, 64, 64, 3), 0.3), jnp.ones((1, 64, 64, 1))
        >>> mask = mask.at[:, 20:30, 20:30].set(0.0)
        >>> infilled = cfx_jax.infill(jax.random.key(0), generator, images, mask)
        >>> bool(abs(infilled - 0.3).max() < 1e-6)
        True
    """
    key, checked = check_key(key), check_images(images)
    check_pixels(checked)
    check_infills(generator, checked)
    infilled = _infill(key, generator, checked, check_mask(mask, checked))
    check_range(generator, infilled)
    return infilled


@jax.jit
def _infill(key: jax.Array, generator: Generator, images: jax.Array, mask: jax.Array) -> jax.Array:
    return blend(images, mask, generator.apply(generator.params, images, jnp.round(mask), key))


def blend(images: Array, mask: Array, infills: Array | float) -> Array:
    """Computes the composite `mask * images + (1 - mask) * infills`.

    Args:
        images: images, float `[..., H, W, C]`, a JAX or NumPy array.
        mask: masks, float `[..., H, W, 1]` in [0, 1], 1 = keep.
        infills: in-fills, a float array with the shape of `images`, or one number.

    Returns:
        Composite, a float array with the shape and class of `images`.
    """
    return mask * images + (1.0 - mask) * infills

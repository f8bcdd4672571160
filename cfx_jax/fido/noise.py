"""Noise of the masks, shared by neighbouring pixels: in blocks, or smoothly over the image."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

# `smooth_noise`: width of a Gaussian and the distance at which it is cut off, in grid spacings.
_GAUSSIAN_WIDTH = 0.6
_REACH = 2
# `smooth_noise`: smallest spacing of the grid, in pixels.
_MIN_SPACING = 0.5


def block_noise(
    sample: Callable[[jax.Array, tuple[int, ...]], jax.Array],
    key: jax.Array,
    shape: tuple[int, ...],
    block_size: int,
) -> jax.Array:
    """Draws noise shared by the pixels of a block; each pixel has the distribution of `sample`.

    For blocks of more than one pixel, this differs from the published code.

    Args:
        sample: function of a key and a shape that draws noise, such as `jax.random.logistic`.
        key: random key.
        shape: shape of the noise, `(S, H, W)`.
        block_size: side of the blocks, in pixels.

    Returns:
        `[S, H, W]`.
    """
    if block_size == 1:
        return sample(key, shape)
    block_key, corner_key = jax.random.split(key)
    count, height, width = shape
    # One block more than covers the image, because a random offset cuts off the first block.
    # Without the offset, the borders between blocks would lie at the same pixels in every mask.
    grid = (-(-height // block_size) + 1, -(-width // block_size) + 1)
    blocks = sample(block_key, (count, *grid))
    corners = jax.random.randint(corner_key, (count, 2, 1), 0, block_size, jnp.int32)
    rows = (jnp.arange(height) + corners[:, 0]) // block_size
    columns = (jnp.arange(width) + corners[:, 1]) // block_size
    return blocks[jnp.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def smooth_noise(key: jax.Array, shape: tuple[int, ...], scale: float) -> jax.Array:
    """Draws noise that changes smoothly over the image; each pixel is standard normal.

    The noise of a pixel is a weighted sum of normal noise on a randomly shifted grid. The weights
    are Gaussians of the distance between pixel and grid point, and their squares add up to one at
    each pixel. If the scale is much larger than the image, all pixels share one draw, and the masks
    are level sets of the map of keep probabilities.

    Differs from the published code, which draws every pixel independently.

    Args:
        key: random key.
        shape: shape of the noise, `(S, H, W)`.
        scale: spacing of the grid, in pixels.

    Returns:
        float32 `[S, H, W]`.
    """
    grid_key, offset_key = jax.random.split(key)
    count, *size = shape
    # On a finer grid, neighbouring pixels would share no noise, and the grid would be larger than
    # necessary.
    scale = max(scale, _MIN_SPACING)
    # The grid extends beyond the image as far as a Gaussian reaches.
    grid = [math.ceil(length / scale) + 2 * _REACH for length in size]
    noise = jax.random.normal(grid_key, (count, *grid), jnp.float32)
    offsets = jax.random.uniform(offset_key, (count, 2), jnp.float32)

    def weigh(offset: jax.Array, length: int, nodes: int) -> jax.Array:
        pixels, positions = (jnp.arange(n, dtype=jnp.float32) for n in (length, nodes))
        distance = (pixels + 0.5)[:, None] / scale - (positions - _REACH + 0.5 + offset)
        weights = jnp.exp(-0.5 * jnp.square(distance / _GAUSSIAN_WIDTH))
        return weights / jnp.linalg.norm(weights, axis=1, keepdims=True)

    rows, columns = (
        jax.vmap(functools.partial(weigh, length=length, nodes=nodes))(offsets[:, axis])
        for axis, (length, nodes) in enumerate(zip(size, grid, strict=True))
    )
    precision = jax.lax.Precision.HIGHEST
    return jnp.einsum("syh,shw,sxw->syx", rows, noise, columns, precision=precision)


def average_blocks(length: int, block_size: int) -> np.ndarray:
    """Returns the weights of the mean over the block of each pixel, averaged over all offsets.

    Args:
        length: number of pixels along the axis.
        block_size: side of a block, in pixels; the outer blocks are cut off as in `block_noise`.

    Returns:
        float32 `[length, length]`; rows add up to one.
    """
    blocks = (np.arange(length) + np.arange(block_size)[:, None]) // block_size
    is_same_block = (blocks[:, :, None] == blocks[:, None, :]).astype(np.float32)
    return np.asarray((is_same_block / is_same_block.sum(axis=2, keepdims=True)).mean(axis=0))

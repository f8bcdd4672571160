"""The mask law: how masks are drawn from the probability of keeping each cell, and seen as maps.

Arrays: cells `[h, w]`; masks `[S, H, W, 1]`, 1 = KEEP the pixel, 0 = in-fill it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.fido.settings import Relaxation, Settings

# Keeps the logarithm of a probability finite where float32 ends, and its slope, summed over the
# pixels of a cell, too. Logits saturate at log(1e30) = 69.
_FLOOR = 1e-30


class KeepMap(NamedTuple):
    """The mask distribution at the pixels of the image, all float32 `[H, W]`.

    Attributes:
        keep: probability of keeping the pixel.
        drop: probability of dropping it, computed on its own: `1 - keep` loses all digits near 1.
        logit: `log(keep) - log(drop)`.
    """

    keep: jax.Array
    drop: jax.Array
    logit: jax.Array


def upsample(cells: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Enlarges `[h, w]` to `size` bilinearly with the corners aligned.

    Differs from `jax.image.resize`, which aligns half-pixel borders: here corner cells map exactly
    onto corner pixels, as in the framework of the published code.

    Args:
        cells: float32 `[h, w]`.
        size: `(H, W)`, at least `(h, w)`.

    Returns:
        float32 `[H, W]`.
    """
    rows = _interpolation(size[0], cells.shape[0])
    columns = _interpolation(size[1], cells.shape[1])
    # Full precision, because TPUs round matmul operands to bfloat16 by default.
    return jnp.einsum("yh,hw,xw->yx", rows, cells, columns, precision=jax.lax.Precision.HIGHEST)


def keep_map(cells: jax.Array, size: tuple[int, int], relaxation: Relaxation) -> KeepMap:
    """Upsamples the keep PROBABILITY to the pixels and returns it with its logit.

    `logit(U sigmoid(l)) = log(U sigmoid(l)) - log(U sigmoid(-l))`, because the weights of U add up
    to one; no probability is ever subtracted from one, so nothing overflows as it nears 0 or 1.

    Args:
        cells: float32 `[h, w]`, logits of keeping a cell; for the deterministic relaxation the
            mask itself, in [0, 1].
        size: `(H, W)` of the image.
        relaxation: says which of the two `cells` are.

    Returns:
        A `KeepMap`.
    """
    if relaxation is Relaxation.DETERMINISTIC:
        keep, drop = upsample(cells, size), upsample(1.0 - cells, size)
    else:
        keep, drop = upsample(jax.nn.sigmoid(cells), size), upsample(jax.nn.sigmoid(-cells), size)
    return KeepMap(keep, drop, jnp.log(keep + _FLOOR) - jnp.log(drop + _FLOOR))


def draw_masks(key: jax.Array, pixels: KeepMap, settings: Settings) -> tuple[jax.Array, jax.Array]:
    """Draws the masks of one step.

    CONCRETE: `z = sigmoid((logit + e) / T)` with standard logistic noise e, see `draw_blocks`;
    `round(z)` is, pixel by pixel, an exact Bernoulli(keep) sample at any temperature.
    DETERMINISTIC: z = keep, and whatever it does not keep whole is a hole.

    Args:
        key: random key.
        pixels: the mask distribution at the pixels.
        settings: relaxation, temperature, size of the blocks and number of samples S.

    Returns:
        `(masks, holes)`, float32 `[S, H, W, 1]`: blend weights, and the zeros and ones that the
        generator is shown.
    """
    if settings.relaxation is Relaxation.DETERMINISTIC:
        masks = jnp.broadcast_to(pixels.keep, (settings.num_samples, *pixels.keep.shape))
        # The interpolation weights of a pixel add up to one only within rounding.
        return masks[..., None], (masks > 1.0 - 1e-6).astype(jnp.float32)[..., None]
    shape = (settings.num_samples, *pixels.logit.shape)
    noise = draw_blocks(jax.random.logistic, key, shape, settings.block_size)
    perturbed = (pixels.logit + noise)[..., None]
    holes = (perturbed > 0).astype(jnp.float32)
    return jax.nn.sigmoid(perturbed / settings.temperature), holes


def draw_blocks(
    sample: Callable[[jax.Array, tuple[int, ...]], jax.Array],
    key: jax.Array,
    shape: tuple[int, ...],
    block_size: int,
) -> jax.Array:
    """Draws noise that the pixels of a block share; every pixel by itself has the law of `sample`.

    Differs from the published code for blocks of more than one pixel.

    Args:
        sample: of a key and a shape, such as `jax.random.logistic`.
        key: random key.
        shape: `(S, H, W)`.
        block_size: side of the blocks, in pixels.

    Returns:
        `[S, H, W]`.
    """
    if block_size == 1:
        return sample(key, shape)
    block_key, corner_key = jax.random.split(key)
    count, height, width = shape
    # One more than fits, because the first is cut off by a random corner: without it, the seams
    # would lie at the same pixels in every mask.
    grid = (-(-height // block_size) + 1, -(-width // block_size) + 1)
    blocks = sample(block_key, (count, *grid))
    corners = jax.random.randint(corner_key, (count, 2, 1), 0, block_size)
    rows = (jnp.arange(height) + corners[:, 0]) // block_size
    columns = (jnp.arange(width) + corners[:, 1]) // block_size
    return blocks[jnp.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def average_blocks(length: int, block_size: int) -> np.ndarray:
    """Weights of the mean over the block that holds a pixel, averaged over all cuts of an axis.

    Args:
        length: pixels of the axis.
        block_size: pixels of a block; those at the ends are cut off as in `draw_blocks`.

    Returns:
        float32 `[length, length]`; rows add up to one.
    """
    blocks = (np.arange(length) + np.arange(block_size)[:, None]) // block_size
    together = (blocks[:, :, None] == blocks[:, None, :]).astype(np.float32)
    return np.asarray((together / together.sum(axis=2, keepdims=True)).mean(axis=0))


def rank_pixels(importance: jax.Array) -> jax.Array:
    """Returns int32 `[H, W]`: 0 for the most important pixel; equal ones go row by row."""
    order = jnp.argsort(-importance.ravel(), stable=True)
    rank = jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.size))
    return rank.reshape(importance.shape)


def _interpolation(out: int, size: int) -> np.ndarray:
    """Bilinear weights `[out, size]` between aligned corners; rows add up to one."""
    position = np.linspace(0.0, size - 1.0, out) if out > 1 else np.zeros(1)
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(size))).astype(np.float32)

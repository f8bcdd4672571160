"""Resampling between cells `[h, w]` and pixels `[H, W]`, by matrices of weights for each axis."""

import jax
import jax.numpy as jnp
import numpy as np


def upsample(cells: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Enlarges `[h, w]` to `size` bilinearly with the corners aligned.

    Differs from `jax.image.resize`, which aligns the outer borders of the corner cells and corner
    pixels: here their centres are aligned, as in the published code.

    Args:
        cells: float32 `[h, w]`.
        size: `(H, W)`, at least `(h, w)`.

    Returns:
        float32 `[H, W]`.
    """
    rows, columns = (interpolation(n, m) for n, m in zip(size, cells.shape, strict=True))
    return resample(rows, cells, columns)


def average_cells(pixels: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Averages `[H, W]` to cells, with the weights that `upsample` gives each cell.

    Args:
        pixels: float32 `[H, W]`.
        shape: `(h, w)`, at most `(H, W)`.

    Returns:
        float32 `[h, w]`.
    """
    rows, columns = (interpolation(n, m).T for n, m in zip(pixels.shape, shape, strict=True))
    rows, columns = (weights / weights.sum(axis=1, keepdims=True) for weights in (rows, columns))
    return resample(rows, pixels, columns)


def smooth_cells(cells: jax.Array, width: float) -> jax.Array:
    """Averages each cell with its neighbours, weighted by a Gaussian.

    Args:
        cells: float32 `[h, w]`.
        width: standard deviation, in cells; 0 returns the cells unchanged.

    Returns:
        float32 `[h, w]`. At the border, the weights of the remaining neighbours add up to one.
    """
    if not width:
        return cells
    rows, columns = (_gaussians(length, width) for length in cells.shape)
    return resample(rows, cells, columns)


def _gaussians(length: int, width: float) -> np.ndarray:
    distance = np.subtract.outer(np.arange(length), np.arange(length))
    weights = np.exp(-0.5 * np.square(distance / width))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def interpolation(out: int, size: int) -> np.ndarray:
    """Returns bilinear weights with aligned corners, float32 `[out, size]`; rows add up to one."""
    position = np.linspace(0.0, size - 1.0, out) if out > 1 else np.zeros(1)
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(size))).astype(np.float32)


def resample(rows: np.ndarray, values: jax.Array, columns: np.ndarray) -> jax.Array:
    """Computes `rows @ values @ columns.T` in full precision.

    Args:
        rows: weights of the first axis, float32 `[H, h]`.
        values: float32 `[h, w]`.
        columns: weights of the second axis, float32 `[W, w]`.

    Returns:
        float32 `[H, W]`.
    """
    # By default, TPUs round the operands to bfloat16.
    return jnp.einsum("yh,hw,xw->yx", rows, values, columns, precision=jax.lax.Precision.HIGHEST)

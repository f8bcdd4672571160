"""Heuristic in-fills: grey, local mean, Gaussian blur, random colour.

Arrays are channels-last, images and in-fills `[N, H, W, C]` in [0, 1], masks `[N, H, W, 1]` with
1 = keep. Heuristics have no parameters (`params` is ignored). The definitions are from the code
published with Chang et al., "Explaining Image Classifiers by Counterfactual Generation", ICLR 2019.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

IMAGENET_MEAN = (0.485, 0.456, 0.406)
LOCAL_MEAN_WINDOW = 15
BLUR_SIGMA = 10.0
RANDOM_NOISE_STD = 0.2


def grey(params: Any, images: jax.Array, mask: jax.Array, key: jax.Array) -> jax.Array:
    """Fills with the mean ImageNet colour (zero in the normalised space of most classifiers)."""
    del params, mask, key
    return jnp.broadcast_to(_mean_colour(images.shape[-1]), images.shape).astype(images.dtype)


def local_mean(params: Any, images: jax.Array, mask: jax.Array, key: jax.Array) -> jax.Array:
    """Fills with the mean of the KEPT pixels in a 15 x 15 window; grey where no pixel is kept.

    `infill[y, x] = sum(mask * images) / sum(mask)` over the window, clipped at the border.
    """
    del params, key
    height, width = images.shape[1:3]
    kept = _separable(
        jnp.concatenate([images * mask, mask], axis=-1),
        _box_matrix(height, LOCAL_MEAN_WINDOW),
        _box_matrix(width, LOCAL_MEAN_WINDOW),
    )
    total, count = kept[..., :-1], kept[..., -1:]
    # Counts are whole numbers up to rounding, so 1/2 separates 0 from 1.
    return jnp.where(
        count > 0.5, total / jnp.maximum(count, 1.0), _mean_colour(images.shape[-1])
    ).astype(images.dtype)


def blur(params: Any, images: jax.Array, mask: jax.Array, key: jax.Array) -> jax.Array:
    """Fills with the image blurred by a Gaussian of sigma 10 pixels, mirrored at the border.

    The blur uses the pixels inside the hole, so a blurred object often stays recognisable. The
    kernel is truncated at 4 sigma and the border pixel is not repeated, the defaults of OpenCV.
    """
    del params, mask, key
    height, width = images.shape[1:3]
    return _separable(images, _blur_matrix(height, BLUR_SIGMA), _blur_matrix(width, BLUR_SIGMA))


def random_color(params: Any, images: jax.Array, mask: jax.Array, key: jax.Array) -> jax.Array:
    """Fills with one uniform colour per image plus N(0, 0.2) pixel noise, clipped to [0, 1]."""
    del params, mask
    color_key, noise_key = jax.random.split(key)
    color = jax.random.uniform(color_key, (images.shape[0], 1, 1, images.shape[-1]), images.dtype)
    noise = RANDOM_NOISE_STD * jax.random.normal(noise_key, images.shape, images.dtype)
    return jnp.clip(color + noise, 0.0, 1.0)


def _mean_colour(channels: int) -> np.ndarray:
    if channels == len(IMAGENET_MEAN):
        return np.asarray(IMAGENET_MEAN, np.float32)
    return np.full((channels,), np.mean(IMAGENET_MEAN), np.float32)


def _separable(images: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """Applies `rows [H, H]` down and `columns [W, W]` across every channel.

    Two matrix products are fast on every backend, whereas a windowed reduction is a naive loop on
    CPU. They use full precision, because TPUs round the operands to bfloat16 by default.
    """
    return jnp.einsum(
        "ih,nhwc,jw->nijc", rows, images, columns, precision=jax.lax.Precision.HIGHEST
    )


def _box_matrix(size: int, window: int) -> np.ndarray:
    index = np.arange(size)
    return (np.abs(index[:, None] - index[None, :]) <= window // 2).astype(np.float32)


def _blur_matrix(size: int, sigma: float) -> np.ndarray:
    radius = round(4 * sigma)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    period = max(2 * (size - 1), 1)
    source = np.abs((np.arange(size)[:, None] + offsets) + period * radius) % period
    source = np.where(source >= size, period - source, source)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], source), weights / weights.sum())
    return matrix.astype(np.float32)

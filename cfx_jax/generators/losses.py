"""What generators are trained on: the error inside the holes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# `loss(params, images, mask, key) -> (loss, infills, terms)`: a scalar, the unclipped in-fills
# `[N, H, W, C]` and scalars worth logging.
Loss = Callable[
    [Any, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array, dict[str, jax.Array]]
]


def hole_l1(infills: jax.Array, images: jax.Array, mask: jax.Array) -> jax.Array:
    """Computes the mean absolute error inside the holes, image by image, then averaged.

    Args:
        infills: float32 `[N, H, W, C]`.
        images: float32 `[N, H, W, C]`, the truth.
        mask: float32 `[N, H, W, 1]`, 1 = keep.

    Returns:
        float32 scalar. A hole of less than 5 % of the image counts as if it had 5 %: the mean error
        of a smaller one is mostly noise.
    """
    holes = 1.0 - mask
    error = jnp.mean(jnp.abs(infills - images), axis=-1, keepdims=True) * holes
    area = jnp.maximum(jnp.sum(holes, axis=(1, 2, 3)), 0.05 * holes[0].size)
    return jnp.mean(jnp.sum(error, axis=(1, 2, 3)) / area)

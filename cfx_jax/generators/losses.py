"""The training loss of generators: the error inside the holes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# `loss(params, images, mask, key) -> (loss, infills, terms)`: a scalar, the unclipped in-fills
# `[N, H, W, C]` and further scalars to log.
Loss = Callable[
    [Any, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array, dict[str, jax.Array]]
]


def hole_l1(infills: jax.Array, images: jax.Array, mask: jax.Array) -> jax.Array:
    """Computes the mean absolute error inside the holes of each image, averaged over images.

    Args:
        infills: in-fills, float32 `[N, H, W, C]`.
        images: true images, float32 `[N, H, W, C]`.
        mask: binary masks, float32 `[N, H, W, 1]`, 1 = keep.

    Returns:
        Loss, float32 scalar. The area of a hole counts as at least 5 % of the image, because the
        mean error of a smaller hole is mostly noise.
    """
    holes = 1.0 - mask
    error = jnp.mean(jnp.abs(infills - images), axis=-1, keepdims=True) * holes
    area = jnp.maximum(jnp.sum(holes, axis=(1, 2, 3)), 0.05 * holes[0].size)
    return jnp.mean(jnp.sum(error, axis=(1, 2, 3)) / area)

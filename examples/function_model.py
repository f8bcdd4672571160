"""A plain JAX function of parameters and images."""

import jax
import jax.numpy as jnp


def colours(params, images):
    """Returns the logits of ten classes from the mean colours of the quarters of each image."""
    n, height, width, _ = images.shape
    quarters = images.reshape(n, 2, height // 2, 2, width // 2, 3).mean((2, 4))
    return (quarters.reshape(n, -1) - 0.5) @ params


def build():
    """Returns the function and its parameters."""
    return colours, 9.0 * jax.random.normal(jax.random.key(0), (12, 10), jnp.float32)

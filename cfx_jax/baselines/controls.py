"""Maps that ignore the classifier: controls that every method should outperform."""

import jax
import jax.numpy as jnp

from cfx_jax.baselines.case import Case


def random(case: Case) -> jax.Array:
    """Returns noise: a control in which every order of the pixels is equally likely."""
    return jax.random.uniform(case.key, case.image.shape[:2])


def centre(case: Case) -> jax.Array:
    """Returns a control that falls linearly from 1 at the centre to 0 in the corners."""
    y, x = (jnp.linspace(-1.0, 1.0, length) for length in case.image.shape[:2])
    return 1.0 - jnp.sqrt((jnp.square(y)[:, None] + jnp.square(x)[None, :]) / 2)


def uniform(case: Case) -> jax.Array:
    """Returns a control in which all pixels are equally important."""
    return jnp.ones(case.image.shape[:2])

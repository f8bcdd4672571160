"""Maps that ignore the classifier: controls that every method has to beat."""

import jax
import jax.numpy as jnp

from cfx_jax.classifiers import Classifier
from cfx_jax.fido import Question
from cfx_jax.generators import Generator


def random(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    question: Question,
) -> jax.Array:
    """Returns noise: a control in which every order of the pixels is equally likely."""
    del classifier, generator, question
    return jax.random.uniform(key, image.shape[:2])


def centre(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    question: Question,
) -> jax.Array:
    """Returns a control that falls linearly from 1 at the centre to 0 in the corners."""
    del key, classifier, generator, question
    y, x = (jnp.linspace(-1.0, 1.0, length) for length in image.shape[:2])
    return 1.0 - jnp.sqrt((jnp.square(y)[:, None] + jnp.square(x)[None, :]) / 2)


def uniform(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    question: Question,
) -> jax.Array:
    """Returns a control in which all pixels are equally important."""
    del key, classifier, generator, question
    return jnp.ones(image.shape[:2])

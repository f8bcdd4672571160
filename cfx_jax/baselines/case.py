"""The arguments that every method takes."""

from typing import NamedTuple

import jax

from cfx_jax.classifiers import Classifier
from cfx_jax.fido import Question
from cfx_jax.generators import Generator


class Case(NamedTuple):
    """ONE image and its question, with the models and a random key.

    Attributes:
        key: random key, for methods that draw.
        classifier: the model to explain.
        generator: model that replaces pixels, for methods that do so.
        image: image, float32 `[H, W, C]` in [0, 1].
        question: class to explain, and the class to contrast it with, if any.
    """

    key: jax.Array
    classifier: Classifier
    generator: Generator
    image: jax.Array
    question: Question

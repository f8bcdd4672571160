"""Adapts a trained model of another library, or a plain function, to a `Classifier`.

The libraries are optional: each is imported only when its adapter is called.

    from cfx_jax import adapters
    from cfx_jax.classifiers import NORMALIZATIONS

    classifier = adapters.from_linen(module, variables, normalization=NORMALIZATIONS["imagenet"])
    print(classifier.check(images))  # Common faults.
    explanation = cfx_jax.explain(key, classifier, generator, images)

Reuse the `Classifier`: every call of an adapter creates a new `apply`, for which programs are
compiled again.
"""

from cfx_jax.adapters import named
from cfx_jax.adapters.equinox import from_equinox
from cfx_jax.adapters.function import from_function
from cfx_jax.adapters.keras import from_keras
from cfx_jax.adapters.linen import from_linen
from cfx_jax.adapters.nnx import from_nnx
from cfx_jax.adapters.recognition import Known, as_classifier, as_generator
from cfx_jax.adapters.torch import from_torch

__all__ = [
    "Known",
    "as_classifier",
    "as_generator",
    "from_equinox",
    "from_function",
    "from_keras",
    "from_linen",
    "from_nnx",
    "from_torch",
    "named",
]

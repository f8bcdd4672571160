"""Image classifiers: pure `apply(params, images) -> logits` functions with their own normalisation."""

from cfx_jax.classifiers.base import Classifier

__all__ = ["Classifier"]

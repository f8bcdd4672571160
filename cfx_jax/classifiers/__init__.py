"""Image classifiers: pure `apply(params, images) -> logits`, normalisation included."""

from cfx_jax.classifiers.base import Classifier

__all__ = ["Classifier"]

"""Image classifiers: pure `apply(params, images) -> logits`, normalisation included."""

from cfx_jax.classifiers.base import NORMALIZATIONS, Classifier, Normalization, module_apply

__all__ = ["NORMALIZATIONS", "Classifier", "Normalization", "module_apply"]

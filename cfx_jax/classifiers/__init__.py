"""Image classifiers: pure `apply(params, images) -> logits` functions with their own normalisation."""

from cfx_jax.classifiers.base import Classifier, imagenet_class_names

__all__ = ["Classifier", "imagenet_class_names"]

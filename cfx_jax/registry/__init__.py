"""Loads classifiers and generators, with their weights, by name."""

from cfx_jax.registry.classifiers import is_loadable, load_classifier
from cfx_jax.registry.generators import NETWORKS, Network, load_generator
from cfx_jax.registry.models import (
    identity,
    load_models,
    name_given_models,
    resolve_precision,
    weights_digest,
)
from cfx_jax.registry.user_models import check_models, image_shape

__all__ = [
    "NETWORKS",
    "Network",
    "check_models",
    "identity",
    "image_shape",
    "is_loadable",
    "load_classifier",
    "load_generator",
    "load_models",
    "name_given_models",
    "resolve_precision",
    "weights_digest",
]

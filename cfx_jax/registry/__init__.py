"""Names -> classifiers and generators with their weights."""

from cfx_jax.registry.classifiers import load_classifier
from cfx_jax.registry.generators import NETWORKS, Network, load_generator
from cfx_jax.registry.models import (
    identity,
    image_shape,
    load_models,
    name_given,
    settle_precision,
    weights_digest,
)

__all__ = [
    "NETWORKS",
    "Network",
    "identity",
    "image_shape",
    "load_classifier",
    "load_generator",
    "load_models",
    "name_given",
    "settle_precision",
    "weights_digest",
]

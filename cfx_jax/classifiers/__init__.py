"""Image classifiers: pure `apply(params, images) -> logits`, normalisation included."""

from cfx_jax.classifiers.base import NORMALIZATIONS, Classifier, Normalization, NormalizedModule
from cfx_jax.classifiers.diagnosis import Finding
from cfx_jax.classifiers.ensemble import average
from cfx_jax.classifiers.logits import log_odds, margin

__all__ = [
    "NORMALIZATIONS",
    "Classifier",
    "Finding",
    "Normalization",
    "NormalizedModule",
    "average",
    "log_odds",
    "margin",
]

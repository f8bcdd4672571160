"""Image classifiers: pure `apply(params, images) -> logits`, normalisation included."""

from cfx_jax.classifiers.base import (
    CHANNEL_ORDERS,
    INTERPOLATIONS,
    NORMALIZATIONS,
    Classifier,
    Normalization,
    NormalizedModule,
)
from cfx_jax.classifiers.diagnosis import Finding
from cfx_jax.classifiers.ensemble import average
from cfx_jax.classifiers.logits import (
    MEANINGS,
    classes_of,
    log_odds,
    logit,
    margin,
    predict,
    probabilities,
    resolve,
)

__all__ = [
    "CHANNEL_ORDERS",
    "INTERPOLATIONS",
    "MEANINGS",
    "NORMALIZATIONS",
    "Classifier",
    "Finding",
    "Normalization",
    "NormalizedModule",
    "average",
    "classes_of",
    "log_odds",
    "logit",
    "margin",
    "predict",
    "probabilities",
    "resolve",
]

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
    LOGIT_KINDS,
    class_count,
    log_odds,
    logit,
    logit_margin,
    predict,
    probabilities,
    resolve,
)

__all__ = [
    "CHANNEL_ORDERS",
    "INTERPOLATIONS",
    "LOGIT_KINDS",
    "NORMALIZATIONS",
    "Classifier",
    "Finding",
    "Normalization",
    "NormalizedModule",
    "average",
    "class_count",
    "log_odds",
    "logit",
    "logit_margin",
    "predict",
    "probabilities",
    "resolve",
]

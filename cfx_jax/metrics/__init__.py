"""Metrics of explanations: pure functions of maps, boxes and models; one number per image.

Averages are computed last, in `statistics`, so that every number can be traced to its image.
"""

from cfx_jax.metrics import localisation, masks
from cfx_jax.metrics.curves import (
    best_drop,
    best_rise,
    crop_metric,
    curve_area,
    deletion_curve,
    insertion_curve,
)
from cfx_jax.metrics.localisation import HIT, SMOOTHING
from cfx_jax.metrics.masks import posterior_entropy
from cfx_jax.metrics.sanity import draw_other_class, shuffle_weights
from cfx_jax.metrics.statistics import Interval, bootstrap, paired_difference

__all__ = [
    "HIT",
    "SMOOTHING",
    "Interval",
    "best_drop",
    "best_rise",
    "bootstrap",
    "crop_metric",
    "curve_area",
    "deletion_curve",
    "draw_other_class",
    "insertion_curve",
    "localisation",
    "masks",
    "paired_difference",
    "posterior_entropy",
    "shuffle_weights",
]

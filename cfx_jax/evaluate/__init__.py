"""Evaluates explanations: records of runs -> numbers per image -> tables."""

from cfx_jax.evaluate.config import EvaluateConfig
from cfx_jax.evaluate.evaluation import evaluate

__all__ = [
    "EvaluateConfig",
    "evaluate",
]

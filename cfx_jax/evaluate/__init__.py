"""How good explanations are: records of runs -> numbers of every image -> tables."""

from cfx_jax.evaluate.config import EvaluateConfig
from cfx_jax.evaluate.evaluation import evaluate

__all__ = [
    "EvaluateConfig",
    "evaluate",
]

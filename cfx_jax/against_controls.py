"""What `python -m cfx_jax.evaluate --records=DIR` does without a config: runs against controls."""

from cfx_jax.evaluate_config import EvaluateConfig


def get_config() -> EvaluateConfig:
    """Returns the defaults of an evaluation."""
    return EvaluateConfig()

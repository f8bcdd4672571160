"""The config of a run when none is given: three photographs, both objectives."""

from cfx_jax.config import Config


def get_config() -> Config:
    """Returns the defaults, which are the demo."""
    return Config()

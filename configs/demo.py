"""Explains three pictures: a cup of espresso, a motorcycle and a traffic light.

    python -m cfx_jax.main --config=configs/demo.py [--workdir=runs/demo]

Takes less than a minute on a 2-core CPU, with 48 of the 120 steps of the default, and needs no
download. It learns the smallest region that keeps the prediction (SSR) and the smallest region
whose in-filling flips it (SDR), and ends with a table and a gallery for a browser.
"""

from cfx_jax.config import Config, ExplainConfig


def get_config() -> Config:
    """Returns the config of the demo: the defaults with fewer steps."""
    return Config(explain=ExplainConfig(num_steps=48))

"""Trains the in-filler of digits, `vae_digits`, on MNIST.

    python -m cfx_jax.train --config=configs/train_vae_mnist.py --workdir=DIR

Needs the TFDS dataset `mnist`, prepared as array_record files; without it the command stops at once
and says how to prepare it. These are the settings of the shipped weights.
"""

from cfx_jax.config import DataConfig
from cfx_jax.train import TrainConfig


def get_config() -> TrainConfig:
    """Returns the training of the shipped weights."""
    return TrainConfig(
        model="vae_digits",
        data=DataConfig(source="tfds", name="mnist", split="train"),
        heldout=DataConfig(source="tfds", name="mnist", split="test"),
        max_heldout=200,
        crop_size=28,
        batch_size=128,
        num_steps=4000,
    )

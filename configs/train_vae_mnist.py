"""Trains the generator of digits, `vae_digits`, on MNIST.

    python -m cfx_jax.train --config=configs/train_vae_mnist.py --workdir=DIR

Needs the TFDS dataset `mnist`, prepared as array_record or tfrecord files; without it the command
stops at once and describes how to prepare it. The packaged weights were trained with these
settings.
"""

from cfx_jax.config import DataConfig
from cfx_jax.train import TrainConfig


def get_config() -> TrainConfig:
    """Returns the config with which the packaged weights were trained."""
    return TrainConfig(
        model="vae_digits",
        data=DataConfig(source="tfds", name="mnist", split="train"),
        heldout=DataConfig(source="tfds", name="mnist", split="test"),
        max_heldout=200,
        crop_size=28,
        batch_size=128,
        num_steps=4000,
    )

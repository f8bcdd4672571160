"""Trains the in-filling generator `gated_unet` on photographs.

    python -m cfx_jax.train --config=configs/train_gated_unet.py --workdir=DIR \
        --config.data.path=PHOTOS --config.heldout.path=PHOTOS

PHOTOS is a folder of photographs, short side 224 or more, with a manifest.csv whose column `split`
says `train` or `heldout`. These are the settings of the shipped weights, for a CPU. On an
accelerator: --config.batch_size=64 --config.num_steps=100000.
"""

from cfx_jax.train import TrainConfig


def get_config() -> TrainConfig:
    """Returns the training of the shipped weights."""
    return TrainConfig()

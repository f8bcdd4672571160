"""Trains the in-filling generator `gated_unet` on photographs.

    python -m cfx_jax.train --config=configs/train_gated_unet.py --workdir=DIR \
        --config.data.path=PHOTOS --config.heldout.path=PHOTOS

PHOTOS is a folder of photographs whose shorter side has at least 224 pixels, with a manifest.csv
whose column `split` contains `train` or `heldout`. The packaged weights were trained with these
settings on a CPU. On an accelerator, use --config.batch_size=64 --config.num_steps=100000.
"""

from cfx_jax.train import TrainConfig


def get_config() -> TrainConfig:
    """Returns the config with which the packaged weights were trained."""
    return TrainConfig()

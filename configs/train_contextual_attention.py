"""Trains the generator of the paper, `contextual_attention`, on photographs.

    python -m cfx_jax.train --config=configs/train_contextual_attention.py --workdir=DIR \
        --config.data.path=PHOTOS --config.heldout.path=PHOTOS

PHOTOS is a folder of photographs whose shorter side has at least 256 pixels, with a manifest.csv
whose column `split` contains `train` or `heldout`. Use an accelerator: a step takes half a minute
on a CPU. The published weights were trained with one rectangular hole per image; this training uses
holes like those of explanations.
"""

from cfx_jax.train import TrainConfig


def get_config() -> TrainConfig:
    """Returns the config of the training, with the published discriminator and batch size."""
    return TrainConfig(
        model="contextual_attention",
        crop_size=256,
        batch_size=16,
        num_steps=100_000,
        adversarial_weight=0.01,
        evaluate_every=5000,
        checkpoint_every=1000,
    )

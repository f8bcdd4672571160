"""Trains the paper's in-filler, `contextual_attention`, on photographs.

    python -m cfx_jax.train --config=configs/train_contextual_attention.py --workdir=DIR \
        --config.data.path=PHOTOS --config.heldout.path=PHOTOS

PHOTOS is a folder of photographs, short side 256 or more, with a manifest.csv whose column `split`
says `train` or `heldout`. For an accelerator: one step takes half a minute on a CPU. The published
weights saw one rectangle an image; these see the masks of an explanation.
"""

from cfx_jax.train import TrainConfig


def get_config() -> TrainConfig:
    """Returns the training, with the adversary and the batch of the published one."""
    return TrainConfig(
        model="contextual_attention",
        crop_size=256,
        batch_size=16,
        num_steps=100_000,
        adversarial_weight=0.01,
        evaluate_every=5000,
        checkpoint_every=1000,
    )

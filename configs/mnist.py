"""Explains the 10,000 test digits of MNIST, with the settings published for digits.

    python -m cfx_jax.main --config=configs/mnist.py --workdir=DIR \
        --config.classifier.weights=FILE

FILE contains the weights of the convolutional network of the PyTorch examples. Needs the TFDS
dataset `mnist`, prepared as array_record or tfrecord files; without it the command stops at once
and describes how to prepare it. To read a file `mnist.npz` instead:
--config.data.source=npz --config.data.path=mnist.npz.
"""

from cfx_jax.config import (
    BatchConfig,
    ClassifierConfig,
    Config,
    DataConfig,
    ExplainConfig,
    GeneratorConfig,
)


def get_config() -> Config:
    """Returns the config of a run over the test digits, both objectives, a mask cell per pixel."""
    return Config(
        data=DataConfig(source="tfds", name="mnist", split="test", resize="stretch"),
        classifier=ClassifierConfig(name="mnist_cnn"),
        generator=GeneratorConfig(name="vae_digits"),
        explain=ExplainConfig(
            mode="paper", mask_size=28, num_samples=64, learning_rate=0.01, num_steps=600
        ),
        batch=BatchConfig(unit_size=256),
    )

r"""Trains the classifier of digits, `mnist_cnn`, on MNIST, in minutes on two cores.

    python -m cfx_jax.train_classifier --config=configs/train_mnist_cnn.py --workdir=DIR

Needs the TFDS dataset `mnist`, prepared as array_record or tfrecord files; without it the command
stops at once and describes how to prepare it. To read a file `mnist.npz` instead:

    --config.data.source=npz --config.data.path=mnist.npz \
    --config.heldout.source=npz --config.heldout.path=mnist.npz
"""

from cfx_jax.train import TrainClassifierConfig


def get_config() -> TrainClassifierConfig:
    """Returns the config of the training: 3000 steps of 128 digits."""
    return TrainClassifierConfig()

r"""Trains the classifier of digits, `mnist_cnn`, on MNIST: minutes on two cores.

    python -m cfx_jax.train_classifier --config=configs/train_mnist_cnn.py --workdir=DIR

Needs the TFDS dataset `mnist`, prepared as array_record or tfrecord files; without it the command
stops at once and says how to prepare it. From a file `mnist.npz`:

    --config.data.source=npz --config.data.path=mnist.npz \
    --config.heldout.source=npz --config.heldout.path=mnist.npz
"""

from cfx_jax.train import TrainClassifierConfig


def get_config() -> TrainClassifierConfig:
    """Returns the training: 3000 steps of 128 digits."""
    return TrainClassifierConfig()

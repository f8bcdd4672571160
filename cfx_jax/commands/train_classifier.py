"""Trains a small classifier: `python -m cfx_jax.train_classifier`."""

from cfx_jax.commands import command_line
from cfx_jax.records import local_folder
from cfx_jax.train import TrainClassifierConfig, train_classifier


def main() -> None:
    """Trains the classifier that the command line describes, and exits."""
    command_line.run_command(_train, TrainClassifierConfig)


def _train(config: TrainClassifierConfig, workdir: str) -> None:
    """Trains and prints the held-out accuracy and the path of the weights."""
    path, accuracy = train_classifier(config, local_folder(workdir))
    print(f"held-out accuracy: {accuracy:.2%}\nweights: {path}")

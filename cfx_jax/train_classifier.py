"""Trains a small classifier: `python -m cfx_jax.train_classifier --config=FILE [--workdir=DIR]`."""

import pathlib

from cfx_jax.runs import cli
from cfx_jax.train.classifier import train_classifier
from cfx_jax.train.config import TrainClassifierConfig


def main(config: TrainClassifierConfig, workdir: str) -> None:
    """Trains and prints where the weights are and how good they are."""
    path, accuracy = train_classifier(config, pathlib.Path(workdir))
    print(f"held-out accuracy: {accuracy:.2%}\nweights: {path}")


if __name__ == "__main__":
    cli.run_command(main, TrainClassifierConfig)

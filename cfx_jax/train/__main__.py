"""Trains an in-filling generator: `python -m cfx_jax.train --config=FILE [--workdir=DIR]`."""

import pathlib

from cfx_jax.runs import cli
from cfx_jax.train.config import TrainConfig
from cfx_jax.train.loop import train


def main(config: TrainConfig, workdir: str) -> None:
    """Trains, or goes on training, and prints where the weights are."""
    print(f"weights: {train(config, pathlib.Path(workdir))}")


if __name__ == "__main__":
    cli.run_command(main, TrainConfig)

"""Trains an in-filling generator: `python -m cfx_jax.train`."""

from cfx_jax.commands import command_line
from cfx_jax.records import local_folder
from cfx_jax.train import TrainConfig, train


def main() -> None:
    """Trains the generator that the command line describes, and exits."""
    command_line.run_command(_train, TrainConfig)


def _train(config: TrainConfig, workdir: str) -> None:
    """Trains, or resumes training, and prints the path of the weights."""
    print(f"weights: {train(config, local_folder(workdir))}")

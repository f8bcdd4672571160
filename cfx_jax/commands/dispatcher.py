"""Dispatches all commands: `cfx_jax COMMAND ...`."""

import runpy
import sys
from typing import NamedTuple

from cfx_jax.version import __version__

_USER_ERROR = 2


class _Command(NamedTuple):
    module: str
    does: str


COMMANDS = {
    "explain": _Command("commands.explain", "explain pictures, or a folder of them"),
    "run": _Command("main", "explain a dataset"),
    "evaluate": _Command("evaluate", "measure the explanations of runs"),
    "report": _Command("report", "write the gallery of runs"),
    "records": _Command("records", "status, verify, export: inspect the records of a run"),
    "weights": _Command("weights", "inspect: list the arrays of a weights file"),
    "train": _Command("train", "train an in-filling generator"),
    "train-classifier": _Command("train_classifier", "train a small classifier"),
    "infill": _Command("infill_folder", "in-fill a folder of images"),
}


def main() -> None:
    """Runs the command that the first argument names."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
    elif name == "--version":
        print(f"cfx_jax {__version__}")
    elif name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"error: there is no command {name!r}; expected one of {known}", file=sys.stderr)
        sys.exit(_USER_ERROR)
    else:
        sys.argv[1:] = arguments
        # `alter_sys` sets `sys.argv[0]`, as `python -m` does; absl reads the main module from it.
        runpy.run_module(f"cfx_jax.{COMMANDS[name].module}", run_name="__main__", alter_sys=True)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.does}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: cfx_jax COMMAND ...", "", *lines])

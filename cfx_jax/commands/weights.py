"""Inspects a weights file: `python -m cfx_jax.weights inspect FILE`."""

import argparse
import sys

from cfx_jax.commands import command_line
from cfx_jax.config import ConfigError
from cfx_jax.weights import describe


def main() -> None:
    """Prints the contents of the file; exits with 2 after an error."""
    parser = argparse.ArgumentParser(prog="python -m cfx_jax.weights", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="inspect")
    inspect = commands.add_parser(
        "inspect", help="list the arrays of a file and the classifier they fit"
    )
    inspect.add_argument("file", help="weights file, Orbax folder or hf://owner/name[/file]")
    arguments = parser.parse_args(command_line.expand_home(sys.argv[1:]))
    command_line.exit_with(lambda: _inspect(arguments.file))


def _inspect(file: str) -> None:
    try:
        print(describe(file))
    except ValueError as error:
        raise ConfigError(str(error)) from error

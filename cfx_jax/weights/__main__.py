"""Looks into a weights file: `python -m cfx_jax.weights inspect FILE`."""

import argparse

from cfx_jax.weights.inspection import describe

_USER_ERROR = 2  # as argparse exits where the command line is wrong


def main() -> None:
    """Prints what the file holds, or an error to stderr."""
    parser = argparse.ArgumentParser(prog="python -m cfx_jax.weights", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="inspect")
    inspect = commands.add_parser(
        "inspect", help="list the arrays of a file and tell which classifier it looks like"
    )
    inspect.add_argument("file", help="weights file, Orbax folder or hf://owner/name[/file]")
    arguments = parser.parse_args()
    try:
        print(describe(arguments.file))
    except (ValueError, OSError) as error:
        parser.exit(_USER_ERROR, f"error: {error}\n")


if __name__ == "__main__":
    main()

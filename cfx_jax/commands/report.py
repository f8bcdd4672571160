"""Writes the gallery of runs: `python -m cfx_jax.report RUN [RUN ...] [--output=DIR]`."""

import argparse
import os
import sys

from cfx_jax.commands import command_line
from cfx_jax.data import check_output_folder_of_run
from cfx_jax.report import write_gallery
from cfx_jax.runs import Explanations


def main() -> None:
    """Writes the gallery of the given runs; exits with 2 after an error."""
    parser = argparse.ArgumentParser(
        prog="python -m cfx_jax.report",
        description="Writes the gallery of a run, or of several on the same images side by side.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or gs://...")
    parser.add_argument(
        "--output", metavar="DIR", help="where to write; default: RUN/report, of one run"
    )
    parser.add_argument(
        "--max_images", type=int, metavar="N", help="of each run with pictures; default: all"
    )
    arguments = parser.parse_args(command_line.expand_home(sys.argv[1:]))
    if arguments.output is None and len(arguments.runs) > 1:
        parser.error("several runs need --output=DIR, a folder of their own")
    if arguments.output == "":
        parser.error("--output is empty; expected a folder")
    if arguments.max_images is not None and arguments.max_images < 0:
        parser.error(f"--max_images is {arguments.max_images}; expected 0 or more")
    command_line.exit_with(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    output = arguments.output or os.path.join(arguments.runs[0], "report")
    for run in arguments.runs:
        check_output_folder_of_run(Explanations(run).manifest, output, "--output")
    print(write_gallery(arguments.runs, output, arguments.max_images))
    return 0

"""Inspects the records of a run: `python -m cfx_jax.records status|verify|export DIR`."""

import argparse
import os
import sys

from cfx_jax.commands import command_line
from cfx_jax.data import check_output_folder_of_run
from cfx_jax.records import local_folder
from cfx_jax.report import FORMATS, export_pictures, export_table
from cfx_jax.runs import Explanations, describe_progress, find_problems

_DAMAGED = 1


def main() -> None:
    """Runs the sub-command; exits with 1 if records are damaged, 2 after an error."""
    parser = argparse.ArgumentParser(prog="python -m cfx_jax.records", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    status = commands.add_parser("status", help="report progress and failures of the run")
    verify = commands.add_parser("verify", help="read every chunk and check it")
    export = commands.add_parser("export", help="write a table with one row per example")
    for command in (status, verify, export):
        command.add_argument("workdir", metavar="DIR", help="folder of the run, or gs://...")
    export.add_argument("--to", required=True, metavar="OUT", help="folder to write to")
    export.add_argument("--format", choices=FORMATS, default="parquet", help="of the table")
    export.add_argument("--pictures", action="store_true", help="draw the masks as PNG, too")
    arguments = parser.parse_args(command_line.expand_home(sys.argv[1:]))
    command_line.exit_with(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "status":
        print(describe_progress(arguments.workdir))
    elif arguments.command == "verify":
        return _verify(arguments.workdir)
    else:
        manifest = Explanations(arguments.workdir).manifest
        output = local_folder(arguments.to)
        check_output_folder_of_run(manifest, output, "--to")
        print(export_table(arguments.workdir, output, arguments.format))
        if arguments.pictures:
            folder = os.path.join(output, "pictures")
            print(f"{export_pictures(arguments.workdir, folder)} pictures in {folder}")
    return 0


def _verify(workdir: str) -> int:
    num_problems = 0
    for problem in find_problems(workdir):
        print(problem)
        num_problems += 1
    if not num_problems:
        print("sound: every chunk of every complete unit can be read")
        return 0
    print(f"{num_problems} problems; run the same command again: damaged units are computed anew")
    return _DAMAGED

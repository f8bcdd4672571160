"""Explains pictures: `cfx_jax explain PICTURE_OR_FOLDER... [--target=CLASS] [--mode=MODE]`."""

import argparse
import itertools
import os
import pathlib
import re
import sys
import webbrowser
from collections.abc import Iterator

from cfx_jax.commands import command_line
from cfx_jax.config import (
    OBJECTIVES,
    ClassifierConfig,
    Config,
    ConfigError,
    DataConfig,
    ExplainConfig,
    GeneratorConfig,
)
from cfx_jax.data import list_images
from cfx_jax.fido import MODES
from cfx_jax.records import ManifestMismatchError
from cfx_jax.report import page
from cfx_jax.runs import preemption


def main() -> None:
    """Explains the pictures of the command line, prints a table and the path of the gallery."""
    arguments = parse(command_line.expand_home(sys.argv[1:]))
    stop = preemption.listen()
    command_line.run_main(lambda: _explain(arguments, stop), _no_flags, stop)


def _no_flags(argv: list[str]) -> list[str]:
    """Parses only the program's name as absl flags; `parse` reads the other arguments."""
    return command_line.parse_flags(argv[:1])


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the arguments after `cfx_jax explain`; exits if they are invalid."""
    defaults = Config()
    parser = argparse.ArgumentParser(
        prog="cfx_jax explain",
        description="Explains pictures: which region keeps, and which flips, the prediction.",
        epilog="All other options: cfx_jax run --help.",
    )
    parser.add_argument("paths", nargs="+", metavar="PICTURE_OR_FOLDER")
    parser.add_argument("--target", default="", metavar="CLASS",
                        help="class name or number; default: the predicted class")  # fmt: skip
    parser.add_argument("--objective", default=defaults.explain.objective, choices=OBJECTIVES,
                        help="region that keeps (ssr) or flips (sdr) the prediction; "
                        "default: %(default)s")  # fmt: skip
    parser.add_argument("--mode", default=defaults.explain.mode, choices=MODES,
                        help="default: %(default)s")  # fmt: skip
    parser.add_argument("--num_steps", type=int, metavar="N",
                        help="optimiser steps; default: those of the mode")  # fmt: skip
    parser.add_argument("--alternatives", type=int, metavar="K",
                        help="number of regions to search for; default: 1")  # fmt: skip
    parser.add_argument("--allowed", default="", metavar="PICTURE_OR_FOLDER",
                        help="pixels that the region may contain, white; default: all")  # fmt: skip
    parser.add_argument("--classifier", default=defaults.classifier.name, metavar="NAME",
                        help="default: %(default)s")  # fmt: skip
    parser.add_argument("--generator", default=defaults.generator.name, metavar="NAME",
                        help="in-filling model; default: %(default)s")  # fmt: skip
    parser.add_argument("--workdir", metavar="DIR",
                        help="folder of the results; default: runs/PICTURE")  # fmt: skip
    parser.add_argument("--open", action="store_true", help="open the gallery in a browser")
    return parser.parse_args(argv)


def _explain(arguments: argparse.Namespace, stop: preemption.StopRequest) -> None:
    config = _config(arguments)
    for workdir in _workdirs(arguments):
        try:
            place = page.run_with_page(config, workdir, stop)
        except ManifestMismatchError:
            if arguments.workdir:
                raise
            continue  # The folder contains other pictures or another config.
        break
    print(f"{page.summary(workdir)}\n{place}")
    if arguments.open:
        webbrowser.open(pathlib.Path(place).resolve().as_uri())


def _config(arguments: argparse.Namespace) -> Config:
    # `pathlib` reads an empty path, such as an unset shell variable, as the working directory.
    if not all(arguments.paths):
        raise ConfigError("an empty path; expected pictures or folders, `.` for this folder")
    root, files = _locate([pathlib.Path(path) for path in arguments.paths])
    return Config(
        data=DataConfig(source="folder", path=str(root), files=files, allowed=arguments.allowed),
        classifier=ClassifierConfig(arguments.classifier),
        generator=GeneratorConfig(arguments.generator),
        explain=ExplainConfig(
            objective=arguments.objective,
            mode=arguments.mode,
            target=arguments.target,
            num_steps=arguments.num_steps,
            alternatives=arguments.alternatives,
        ),
    )


def _locate(paths: list[pathlib.Path]) -> tuple[pathlib.Path, tuple[str, ...]]:
    """Returns the folder that contains all paths, and the pictures in it; `()` means all."""
    if missing := [str(path) for path in paths if not path.exists()]:
        raise ConfigError(f"{missing[0]}: no such file or folder; expected pictures or folders")
    if len(paths) == 1 and paths[0].is_dir():
        return paths[0], ()
    pictures = [
        picture
        for path in paths
        for picture in (
            [path / name for name in list_images(path).images] if path.is_dir() else [path]
        )
    ]
    pictures = list(dict.fromkeys(path.absolute() for path in pictures))
    root = pathlib.Path(os.path.commonpath([path.parent for path in pictures]))
    return root, tuple(path.relative_to(root).as_posix() for path in pictures)


def _workdirs(arguments: argparse.Namespace) -> Iterator[str]:
    """Yields the workdir, then further names in case it contains the results of another call."""
    if arguments.workdir:
        yield arguments.workdir
        return
    name = pathlib.Path(arguments.paths[0]).resolve()
    stem = name.name if name.is_dir() else name.stem
    stem = re.sub(r"[^\w.-]+", "-", stem) or "pictures"
    yield f"runs/{stem}"
    for number in itertools.count(2):
        yield f"runs/{stem}-{number}"


if __name__ == "__main__":
    main()

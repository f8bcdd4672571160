"""The command line: `--config=FILE [--workdir=DIR] [--config.a.b=value ...]`, and its errors."""

import logging
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from cfx_jax import cluster
from cfx_jax.config import ConfigError, check_field
from cfx_jax.preemption import StoppedError
from cfx_jax.records import RecordsError

USER_ERROR = 2
INTERRUPTED = 130  # As shells say it: 128 and the number of SIGINT.


def run_command(
    command: Callable[[Any, str], None], config_type: type, default_config: str | None
) -> None:
    """Parses the command line, runs a command and exits: 0, or 2 after one message to stderr.

    Args:
        command: called with the config and the folder of the run.
        config_type: what `get_config()` of a config file returns.
        default_config: path of the config file used when none is given, or None to ask for one.
    """
    config = config_flags.DEFINE_config_file(
        "config", None, f"File that defines get_config() -> {config_type.__name__}."
    )
    workdir = flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/CONFIG_NAME.")

    def parse(argv: list[str]) -> list[str]:
        return _parse(argv, config, config_type, default_config)

    def main() -> None:
        name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
        command(config.value, workdir.value or f"runs/{name}")

    run_main(main, parse)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the flags of the program, returns the arguments left.

    Raises:
        ConfigError: a flag is unknown, missing or cannot be read.
    """
    try:
        rest: list[str] = flags.FLAGS(argv)
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    return rest


def run_main(
    main: Callable[[], None], flags_parser: Callable[[list[str]], list[str]] = parse_flags
) -> None:
    """Parses the flags of the program, calls `main` and exits: 0, or 2 after a message to stderr.

    Args:
        main: raises `ConfigError`, `RecordsError` or `OSError` for what the user can mend.
        flags_parser: `argv -> arguments left`.
    """

    def quiet_main(argv: list[str]) -> None:
        if argv[1:]:
            raise ConfigError(f"unexpected arguments {argv[1:]}; options begin with --")
        # JAX tells of every backend it looks for and does not find. Orbax tells of every file it
        # writes, and shows the stack of an error before it raises it.
        logging.getLogger("jax").setLevel(logging.WARNING)
        absl_logging.set_verbosity(absl_logging.FATAL)
        main()

    try:
        app.run(quiet_main, flags_parser=flags_parser)
    except (ConfigError, RecordsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        cluster.leave(USER_ERROR)
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        cluster.leave(0, stopped.deadline)
    except KeyboardInterrupt:
        print("interrupted; resume with the same command", file=sys.stderr)
        cluster.leave(INTERRUPTED)


def _parse(
    argv: list[str], config: Any, config_type: type, default_config: str | None
) -> list[str]:
    """Parses the flags; whatever is wrong with them is a `ConfigError`."""
    for argument in argv:
        if match := re.match(r"--config\.([\w.]+)", argument):
            check_field(config_type(), match[1])
    if default_config and not any(re.match(r"--?config(=|$)", argument) for argument in argv):
        # As the flag's default it would be read, and fail, before there is a parser.
        argv = [argv[0], f"--config={default_config}", *argv[1:]]
    try:
        rest: list[str] = flags.FLAGS(argv)
    except Exception as error:  # A config file is code: it can fail in any way.
        message = f"{type(error).__name__}: {error}\nin: {' '.join(argv[1:])}"
        raise ConfigError(message) from error
    if not isinstance(config.value, config_type):
        given = f"--config={config_flags.get_config_filename(flags.FLAGS['config'])}"
        name = f"{config_type.__module__}.{config_type.__name__}"
        raise ConfigError(f"{given}: expected a file whose get_config() returns {name}")
    return rest

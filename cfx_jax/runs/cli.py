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

from cfx_jax.config import ConfigError, check_field
from cfx_jax.records import RecordsError
from cfx_jax.runs import cluster, log
from cfx_jax.runs.preemption import StoppedError

USER_ERROR = 2
INTERRUPTED = 130  # As shells say it: 128 and the number of SIGINT.


def run_command(
    command: Callable[[Any, str], None], config_type: type, default_name: str = ""
) -> None:
    """Parses the command line, runs a command and exits: 0, or 2 after one message to stderr.

    Args:
        command: called with the config and the folder of the run.
        config_type: what `get_config()` of a config file returns.
        default_name: of a run without a config file, which takes the defaults of `config_type`; ""
            asks for a file.
    """
    parsed: list[tuple[Any, str]] = []

    def parse(argv: list[str]) -> list[str]:
        config, workdir, rest = parse_command(argv, config_type, default_name)
        parsed.append((config, workdir))
        return rest

    run_main(lambda: command(*parsed[0]), parse)


def parse_command(
    argv: list[str],
    config_type: type,
    default_name: str = "",
    flag_values: flags.FlagValues = flags.FLAGS,
) -> tuple[Any, str, list[str]]:
    """Reads `--config=FILE --config.a.b=value --workdir=DIR`.

    Args:
        argv: of the program, its name first.
        config_type: as in `run_command`.
        default_name: as in `run_command`.
        flag_values: where the flags are defined; those of other flags are read, too.

    Returns:
        The config, the folder of the run, and what is left of `argv`.

    Raises:
        ConfigError: whatever is wrong with the flags, or with the config file.
    """
    for argument in argv:
        if match := re.match(r"--?(?:no)?config\.([\w.]+)", argument):
            check_field(config_type(), match[1])
    is_given = any(re.match(r"--?config(=|$)", argument) for argument in argv)
    expected = f"a file whose get_config() returns {config_type.__module__}.{config_type.__name__}"
    options: dict[str, Any] = {"flag_values": flag_values, "sys_argv": argv}
    # ml_collections loads every config file into one module: what an earlier file has defined would
    # stand for what this one lacks.
    sys.modules.pop("config_config", None)
    try:
        if is_given or not default_name:
            config = config_flags.DEFINE_config_file("config", None, f"{expected}.", **options)
        else:
            config = config_flags.DEFINE_config_dataclass(
                "config",
                config_type(),
                f"{expected}; default: {config_type.__name__}().",
                **options,
            )
        workdir = flags.DEFINE_string(
            "workdir", None, "Folder of the run; default: runs/NAME.", flag_values=flag_values
        )
        _show_in_help(flag_values)
        rest: list[str] = flag_values(argv)
    except Exception as error:  # A config file is code: it can fail in any way.
        message = f"{type(error).__name__}: {error}\nin: {' '.join(argv[1:])}"
        raise ConfigError(message) from error
    if not is_given and not default_name:
        raise ConfigError(f"no --config=FILE is given; expected {expected}")
    name = default_name
    if is_given:
        file = config_flags.get_config_filename(flag_values["config"])
        if not isinstance(config.value, config_type):
            raise ConfigError(f"--config={file}: expected {expected}")
        name = pathlib.Path(file).stem
    return config.value, workdir.value or f"runs/{name}", rest


def _show_in_help(flag_values: flags.FlagValues) -> None:
    """Lets --help, which knows the flags of the main module, list those of the package."""
    for module, defined in flag_values.flags_by_module_dict().items():
        if module.startswith("cfx_jax."):
            for flag in defined:
                flag_values.register_key_flag_for_module(sys.argv[0], flag)


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
    """Parses the flags of the program, calls `main` and exits as `exit_with` does.

    Args:
        main: the command.
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

    exit_with(lambda: app.run(quiet_main, flags_parser=flags_parser))


def exit_with(
    main: Callable[[], int | None],
    user_errors: tuple[type[Exception], ...] = (ConfigError, RecordsError, OSError),
) -> None:
    """Calls the main function of a command, shows what is logged, and exits.

    The exit status is what `main` returns, 0 for None; `USER_ERROR` after one message to stderr;
    0 after a request to stop, since what is written is whole; `INTERRUPTED` after Ctrl-C. Any other
    error is a fault of the program, and ends it with a traceback.

    Args:
        main: the command.
        user_errors: what it raises for what the user can mend.
    """
    try:
        with log.shown():
            sys.exit(main())
    except user_errors as error:
        print(f"error: {error}", file=sys.stderr)
        cluster.leave(USER_ERROR)
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        cluster.leave(0, stopped.deadline)
    except KeyboardInterrupt:
        print("interrupted; go on with the same command", file=sys.stderr)
        cluster.leave(INTERRUPTED)

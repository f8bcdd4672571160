"""The command line, `--config=FILE [--workdir=DIR] [--config.a.b=value ...]`, and its errors."""

import dataclasses
import io
import logging
import os
import pathlib
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from cfx_jax.commands import _terminal
from cfx_jax.config import ConfigError, check_field
from cfx_jax.records import RecordsError
from cfx_jax.runs import StoppedError, StopRequest, cluster, keep_programs
from cfx_jax.version import __version__

USER_ERROR = 2
INTERRUPTED = 130  # Shell convention: 128 plus the number of SIGINT.
NOT_READ = 141  # 128 plus the number of SIGPIPE.

# Errors that the user can correct. Any other error is a fault of the program.
_USER_ERRORS = (ConfigError, RecordsError, OSError)
_FAULT = (
    "This is a fault of cfx_jax {version}, not of your input: please report it with the lines above"
)


def run_command(
    command: Callable[[Any, str], None],
    config_type: type,
    default_name: str = "",
    stop: StopRequest | None = None,
) -> None:
    """Parses the command line, runs a command and exits: 0, or 2 after one message to stderr.

    Args:
        command: function of the config and the workdir.
        config_type: type of the config that `get_config()` of a config file returns.
        default_name: name of a run without a config file, which uses the defaults of `config_type`;
            "" requires a file.
        stop: stop request, as in `run_main`.
    """
    parsed: list[tuple[Any, str]] = []

    def parse(argv: list[str]) -> list[str]:
        config, workdir, rest = parse_command(argv, config_type, default_name)
        parsed.append((config, workdir))
        return rest

    run_main(lambda: command(*parsed[0]), parse, stop)


def parse_command(
    argv: list[str],
    config_type: type,
    default_name: str = "",
    flag_values: flags.FlagValues = flags.FLAGS,
) -> tuple[Any, str, list[str]]:
    """Parses `--config=FILE --config.a.b=value --workdir=DIR`.

    Args:
        argv: arguments of the program, beginning with its name.
        config_type: type of the config, as in `run_command`.
        default_name: name of a run without a config file, as in `run_command`.
        flag_values: registry to define the flags in; flags that it already contains are parsed,
            too.

    Returns:
        The config, the workdir, and the remaining arguments. A `~` at the beginning of a path is
        the home folder.

    Raises:
        ConfigError: the flags or the config file are invalid.
    """
    for argument in argv:
        if match := re.match(r"--?(?:no)?config\.([\w.]+)", argument):
            check_field(config_type(), match[1])
    known = ", ".join(packaged_configs(config_type))
    argv, file = find_config(expand_home(argv), known)
    expected = f"the name of one that comes with the package ({known}) or a file like them"
    options: dict[str, Any] = {"flag_values": flag_values, "sys_argv": argv}
    # ml_collections loads every config file into one module: names that an earlier file defined
    # would otherwise remain visible in this file.
    sys.modules.pop("config_config", None)
    try:
        if file or not default_name:
            config = config_flags.DEFINE_config_file(
                "config", None, f"Config: {expected}.", **options
            )
        else:
            config = config_flags.DEFINE_config_dataclass(
                "config",
                config_type(),
                f"Config: {expected}; without one, every field has its default.",
                **options,
            )
        workdir = flags.DEFINE_string(
            "workdir", None, "Folder of the run; default: runs/NAME.", flag_values=flag_values
        )
        rest = parse_flags(argv, flag_values)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # A config file is code: it can fail in any way.
        if isinstance(error, SystemExit) and _wants_help(argv):
            raise
        where = f"--config={file}" if file else " ".join(argv[1:])
        raise ConfigError(f"{where}: {type(error).__name__}: {_line(error)}") from error
    if not file and not default_name:
        raise ConfigError(f"no --config is given; expected {expected}")
    if file and not isinstance(config.value, config_type):
        raise ConfigError(
            f"--config={file}: its get_config() returns a {type(config.value).__name__}, not the "
            f"{config_type.__name__} of this command; expected {expected}"
        )
    name = pathlib.Path(file).stem if file else default_name
    _expand_fields(config.value)
    return config.value, workdir.value or f"runs/{name}", rest


def find_config(argv: list[str], known: str) -> tuple[list[str], str]:
    """Finds the file that `--config=FILE` means.

    Args:
        argv: arguments of the program.
        known: names of packaged configs, for the error message.

    Returns:
        `argv` with the path in place of the name of a packaged config, and the path; "" if no
        config is given.

    Raises:
        ConfigError: there is neither a file nor a packaged config of this name.
    """
    argv, file = list(argv), ""
    for index, argument in enumerate(argv):
        match = re.fullmatch(r"(--?config)(?:=(.*))?", argument, re.DOTALL)
        if not match or (match[2] is None and index + 1 == len(argv)):
            continue
        given = argv[index + 1] if match[2] is None else match[2]
        file = given if pathlib.Path(given).is_file() else str(packaged_configs().get(given, ""))
        if not file:
            what = "is a folder" if pathlib.Path(given).is_dir() else "no such file"
            raise ConfigError(
                f"--config={given}: {what}; those that come with the package are given by name, as "
                f"--config={known.partition(',')[0]}: {known}"
            )
        argv[index + (match[2] is None)] = file if match[2] is None else f"{match[1]}={file}"
    return argv, file


def packaged_configs(config_type: type | None = None) -> dict[str, pathlib.Path]:
    """Returns the packaged config files by name; with a type, only those that return it."""
    package = pathlib.Path(__file__).parent.parent
    # An installed package contains the configs; in a checkout they are next to it.
    folder = package / "configs"
    folder = folder if folder.is_dir() else package.parent / "configs"
    returns = f"-> {config_type.__name__}:" if config_type else ""
    return {
        path.stem: path
        for path in sorted(folder.glob("*.py"))
        if returns in path.read_text(encoding="utf-8")
    }


def expand_home(argv: list[str]) -> list[str]:
    """Expands `~` after `--flag=` to the home folder; shells do so only at the start of a word."""
    return [
        re.sub(r"(?<==)~[^/=]*(?=/|$)", lambda match: os.path.expanduser(match[0]), argument)
        for argument in argv
    ]


def _expand_fields(config: Any) -> None:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            _expand_fields(value)
        elif isinstance(value, str) and value.startswith("~"):
            setattr(config, field.name, os.path.expanduser(value))


def _show_in_help(flag_values: flags.FlagValues) -> None:
    """Adds the package's flags to --help, which otherwise lists only those of the main module."""
    for module, defined in flag_values.flags_by_module_dict().items():
        if module.startswith("cfx_jax."):
            for flag in defined:
                flag_values.register_key_flag_for_module(sys.argv[0], flag)


def parse_flags(argv: list[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses the flags of the program and returns the remaining arguments.

    Raises:
        ConfigError: a flag is unknown, missing or invalid.
        SystemExit: status 0, after --help.
    """
    _show_in_help(flag_values)
    try:
        rest: list[str] = flag_values(expand_home(argv))
    except flags.Error as error:
        raise ConfigError(_line(error)) from error
    except SystemExit:
        if not _wants_help(argv):
            raise
        # absl exits with a failure after --help.
        raise SystemExit(0) from None
    return rest


def _wants_help(argv: list[str]) -> bool:
    return any(re.match(r"--?help", argument) for argument in argv)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def run_main(
    main: Callable[[], None],
    flags_parser: Callable[[list[str]], list[str]] = parse_flags,
    stop: StopRequest | None = None,
) -> None:
    """Parses the flags of the program, calls `main` and exits through `exit_with`.

    Args:
        main: function that runs the command.
        flags_parser: function `argv -> remaining arguments`.
        stop: stop request, checked while waiting for other processes; None never stops.
    """

    def quiet_main(argv: list[str]) -> None:
        if argv[1:]:
            raise ConfigError(f"unexpected arguments {argv[1:]}; options begin with --")
        # JAX logs every backend that it does not find. Orbax logs every file it writes, and the
        # stack trace of an error before it raises it.
        logging.getLogger("jax").setLevel(logging.WARNING)
        absl_logging.set_verbosity(absl_logging.FATAL)
        cluster.resolve_numbers()
        keep_programs()
        cluster.join(stop or StopRequest())
        main()

    exit_with(lambda: app.run(quiet_main, flags_parser=flags_parser))


def exit_with(main: Callable[[], int | None]) -> None:
    """Calls the main function of a command, prints its log messages, and exits.

    Only here are errors turned into messages. The exit status is the result of `main`, with 0 for
    None; `USER_ERROR` after one message to stderr; 0 after a stop request, since all written data
    are complete; `INTERRUPTED` after Ctrl-C; `NOT_READ` if the reader of the output has closed the
    pipe. Any other error is a fault of the program, which ends with a traceback and a note to
    report it.

    Args:
        main: function that runs the command.
    """
    # Commands inherit this variable from a notebook, whose backend may not be installed here.
    os.environ["MPLBACKEND"] = "agg"
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Otherwise a file name that the terminal cannot encode would end the command.
            stream.reconfigure(errors="backslashreplace")
    try:
        with _terminal.shown():
            _check_working_directory()
            status = main()
            sys.stdout.flush()
            sys.exit(status)
    except BrokenPipeError:
        # Python flushes stdout once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        cluster.leave(NOT_READ)
    except _USER_ERRORS as error:
        _leave_after(str(error))
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        cluster.leave(0, stopped.deadline)
    except KeyboardInterrupt:
        # A second Ctrl-C while Python shuts down would print a stack trace.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("interrupted; resume with the same command", file=sys.stderr)
        cluster.leave(INTERRUPTED)
    except Exception as error:
        if message := _outside(error):
            _leave_after(message)
        error.add_note(_FAULT.format(version=__version__))
        raise


def _check_working_directory() -> None:
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise ConfigError(
            "the working directory was deleted; change to a directory that exists"
        ) from error


def _open_missing_streams() -> None:
    """Opens standard streams that are closed, as after `2>&-`, on the null device.

    Otherwise the next files to be opened would get their descriptors, and messages of libraries
    would be written into these files.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(null, "w" if number else "r", encoding="utf-8"))


def _leave_after(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    cluster.leave(USER_ERROR)


def _outside(error: Exception) -> str:
    """Returns the message for an error caused by the machine; "" for any other error."""
    if isinstance(error, UnicodeError) and (found := sys.getfilesystemencoding()) != "utf-8":
        return f"a name or a text cannot be written in {found}; set PYTHONUTF8=1 ({_line(error)})"
    is_full = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    if is_full or isinstance(error, MemoryError):
        return (
            "out of memory; expected a smaller batch, fewer masks per step, or a larger device "
            f"({_line(error)[:200]})"
        )
    return ""

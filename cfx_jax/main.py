"""Command line: `python -m cfx_jax.main --config=FILE [--workdir=DIR] [--config.a.b=value ...]`."""

import logging
import pathlib
import re
import sys

from absl import app, flags
from ml_collections import config_flags

from cfx_jax import config as config_lib
from cfx_jax import demo, report, runner
from cfx_jax.records import RecordsError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "File that defines get_config() -> Config; default: the demo."
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/CONFIG_NAME.")
USER_ERROR = 2


def main(argv: list[str]) -> None:
    """Runs the config, then prints its table and the path of the report."""
    if argv[1:]:
        raise config_lib.ConfigError(f"unexpected arguments {argv[1:]}; options begin with --")
    # JAX tells of every backend it looks for and does not find.
    logging.getLogger("jax").setLevel(logging.WARNING)
    config_file = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"]))
    workdir = pathlib.Path(WORKDIR.value or f"runs/{config_file.stem}")
    page = runner.run(CONFIG.value, workdir)
    print(f"{report.summary(workdir)}\nrecords: {workdir / 'records.zarr'}\nreport:  {page}")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; whatever is wrong with it is a `ConfigError`."""
    for argument in argv:
        if match := re.match(r"--config\.([\w.]+)", argument):
            config_lib.check_field(match[1])
    if not any(re.match(r"--?config(=|$)", argument) for argument in argv):
        # As the flag's default it would be read, and fail, while this module is imported.
        argv = [argv[0], f"--config={demo.__file__}", *argv[1:]]
    try:
        rest = flags.FLAGS(argv)
    except Exception as error:  # A config file is code: it can fail in any way.
        message = f"{type(error).__name__}: {error}\nin: {' '.join(argv[1:])}"
        raise config_lib.ConfigError(message) from error
    if not isinstance(CONFIG.value, config_lib.Config):
        filename = config_flags.get_config_filename(flags.FLAGS["config"])
        raise config_lib.ConfigError(
            f"--config={filename}: expected a file whose get_config() returns cfx_jax.config.Config"
        )
    return rest


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=parse_flags)
    except (config_lib.ConfigError, RecordsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)

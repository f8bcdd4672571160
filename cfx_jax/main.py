"""Explains a dataset: `python -m cfx_jax.main --config=FILE [--workdir=DIR] [--config.a.b=...]`."""

import pathlib

from cfx_jax import cli, demo, report, runner
from cfx_jax.config import Config


def main(config: Config, workdir: pathlib.Path) -> None:
    """Runs the config, then prints its table and the path of the report."""
    page = runner.run(config, workdir)
    print(f"{report.summary(workdir)}\nrecords: {workdir / 'records.zarr'}\nreport:  {page}")


if __name__ == "__main__":
    cli.run_command(main, Config, demo.__file__)

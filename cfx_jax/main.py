"""Explains a dataset: `python -m cfx_jax.main --config=FILE [--workdir=DIR] [--config.a.b=...]`.

Several processes share a run with `--distributed`, or `--coordinator_address` and its companions.
"""

import jax

from cfx_jax import cli, cluster, demo, preemption, report, runner
from cfx_jax.config import Config


def main(config: Config, workdir: str) -> None:
    """Runs the config, then prints its table and the path of the report."""
    cluster.join()
    with preemption.watch() as stop:
        page = runner.run(config, workdir, stop)
    if jax.process_index() == 0:
        print(f"{report.summary(workdir)}\nrecords: {workdir}/records.zarr\nreport:  {page}")


if __name__ == "__main__":
    cluster.define_flags()
    cli.run_command(main, Config, demo.__file__)

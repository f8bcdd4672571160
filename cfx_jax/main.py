"""Explains a dataset: `python -m cfx_jax.main --config=FILE [--workdir=DIR] [--config.a.b=...]`.

Several processes share a run with `--distributed`, or `--coordinator_address` and its companions.
"""

import functools

from cfx_jax.config import Config
from cfx_jax.report import page
from cfx_jax.runs import cli, cluster, preemption


def main(config: Config, workdir: str, stop: preemption.StopRequest) -> None:
    """Runs the config and writes its page, then prints the table and where things are."""
    place = page.run_with_page(config, workdir, stop)
    if cluster.is_first():
        print(f"{page.summary(workdir)}\nrecords: {workdir}/records.zarr\nreport:  {place}")
    cluster.wait_for_others(stop)


if __name__ == "__main__":
    stop = preemption.listen()
    cluster.define_flags()
    cli.run_command(functools.partial(main, stop=stop), Config, "demo", stop)

"""Explains a dataset: `python -m cfx_jax.main`."""

import functools

from cfx_jax.commands import command_line
from cfx_jax.config import Config
from cfx_jax.report import page
from cfx_jax.runs import cluster, preemption


def main() -> None:
    """Explains the dataset that the command line names, and exits."""
    stop = preemption.listen()
    cluster.define_flags()
    command_line.run_command(functools.partial(_explain, stop=stop), Config, "demo", stop)


def _explain(config: Config, workdir: str, stop: preemption.StopRequest) -> None:
    """Runs the config, writes its gallery, then prints the table and the paths."""
    place = page.run_with_page(config, workdir, stop)
    if cluster.is_first():
        print(f"{page.summary(workdir)}\nrecords: {workdir}/records.zarr\nreport:  {place}")
    cluster.wait_for_others(stop)

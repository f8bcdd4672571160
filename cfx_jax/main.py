"""Explains a dataset: `python -m cfx_jax.main --config=FILE [--workdir=DIR] [--config.a.b=...]`.

Several processes share a run with `--distributed`, or `--coordinator_address` and its companions.
"""

import contextlib
import functools

from cfx_jax.config import Config
from cfx_jax.report import page
from cfx_jax.runs import cli, cluster, preemption, runner


def main(config: Config, workdir: str, stop: preemption.StopRequest) -> None:
    """Runs the config and writes its page, then prints the table and where things are."""
    max_images = config.report.max_images
    shows = cluster.is_first()
    with page.kept_fresh(workdir, max_images, stop) if shows else contextlib.nullcontext():
        runner.run(config, workdir, stop)
    if shows:
        place = page.write_report(workdir, max_images, stop.check)
        print(f"{page.summary(workdir)}\nrecords: {workdir}/records.zarr\nreport:  {place}")
    cluster.wait_for_others(stop)


if __name__ == "__main__":
    stop = preemption.listen()
    cluster.define_flags()
    cli.run_command(functools.partial(main, stop=stop), Config, "demo", stop)

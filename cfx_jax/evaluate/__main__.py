"""Measures explanations: `python -m cfx_jax.evaluate --records=DIR ... | --config=FILE`."""

import functools

from absl import flags

from cfx_jax.evaluate.config import EvaluateConfig
from cfx_jax.evaluate.evaluation import evaluate
from cfx_jax.runs import cli, cluster, preemption


def define_flags() -> None:
    """Adds the flags of this command to those of the command line."""
    flags.DEFINE_multi_string(
        "records", [], "Folder of a run whose masks are measured; may be given several times."
    )
    flags.DEFINE_string(
        "images", "", "With --records: where the images lie now, if not where they were."
    )


def main(config: EvaluateConfig, workdir: str, stop: preemption.StopRequest) -> None:
    """Measures, then prints the tables and where they are."""
    table = evaluate(config, workdir, flags.FLAGS.records, flags.FLAGS.images, stop)
    if cluster.is_first():
        print(f"{table}\ntables: {workdir}/table.md, .csv, .json, images.csv, *.png")
    cluster.wait_for_others(stop)


if __name__ == "__main__":
    stop = preemption.listen()
    cluster.define_flags()
    define_flags()
    cli.run_command(functools.partial(main, stop=stop), EvaluateConfig, "evaluation", stop)

"""Evaluates explanations: `python -m cfx_jax.evaluate`."""

import functools

from absl import flags

from cfx_jax.commands import command_line
from cfx_jax.evaluate import EvaluateConfig, evaluate
from cfx_jax.runs import cluster, preemption


def main() -> None:
    """Runs the evaluation that the command line describes, and exits."""
    stop = preemption.listen()
    cluster.define_flags()
    _define_flags()
    measure = functools.partial(_measure, stop=stop)
    command_line.run_command(measure, EvaluateConfig, "evaluation", stop)


def _define_flags() -> None:
    flags.DEFINE_multi_string(
        "records", [], "Folder of a run whose masks are measured; may be given several times."
    )
    flags.DEFINE_string(
        "images", "", "With --records: where the images lie now, if not where they were."
    )


def _measure(config: EvaluateConfig, workdir: str, stop: preemption.StopRequest) -> None:
    """Evaluates the explanations, then prints the tables and their paths."""
    table = evaluate(config, workdir, flags.FLAGS.records, flags.FLAGS.images, stop)
    if cluster.is_first():
        print(f"{table}\ntables: {workdir}/table.md, .csv, .json, images.csv, *.png")
    cluster.wait_for_others(stop)

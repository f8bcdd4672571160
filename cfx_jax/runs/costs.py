"""Describes the cost of a run in one line."""

import numpy as np

from cfx_jax.records import Cost, Costs, Storage
from cfx_jax.runs.explanations import Explanations


def describe_cost(run: Explanations) -> str:
    """Describes the cost of a run, over the units whose time was measured.

    The speed is that of all processes together; for a run resumed on other machines it is the
    average. Compilation does not count, nor do units that were lost when the run was killed.

    Args:
        run: reader of the run, finished or not.

    Returns:
        A line such as `400 images, 2.8 images/s, 143 device-seconds, 288 evaluations an image`;
        only its last part, or "", if no time is known.
    """
    # An image with several classes to explain gives several examples.
    what = "image" if run.option("top_classes") is None else "example"
    each = _evaluations(run)
    parts = [*_times(run, what), *([f"{each:,} evaluations an {what}"] if each else [])]
    return ", ".join(parts)


def _times(run: Explanations, what: str) -> list[str]:
    costs = Costs(Storage(run.location), run.num_units).read()
    units = [unit for unit in run.complete_units if np.isfinite(costs[unit]).all()]
    if not units:
        return []
    columns = dict(zip(Cost._fields, costs[units].T.astype(float), strict=True))
    timed, done = sum(len(range(*run.unit_range(unit))) for unit in units), run.complete.sum()
    # Processes work at the same time, so a unit takes only its share of the wall-clock time.
    speed = timed / max(float(np.sum(columns["seconds"] / columns["processes"])), 1e-9)
    return [
        f"{timed:,}{f' of {done:,}' if timed < done else ''} {what}{'s' if done > 1 else ''}",
        f"{speed:{',.1f' if speed >= 1 else '.2g'}} {what}s/s",
        f"{np.sum(columns['seconds'] * columns['devices']):,.0f} device-seconds",
    ]


def _evaluations(run: Explanations) -> int:
    """Returns the evaluations per example, a mean where images may stop early."""
    taken = [float(run.settings.num_steps)] * len(run.results)
    if run.has_steps:
        columns = [run.read_result(objective, "steps") for objective in run.results]
        # Examples that are not computed or unreadable have no steps.
        taken = [float(np.mean(c[c > 0])) if (c > 0).any() else 0.0 for c in columns]
    return round(sum(run.settings.count_evaluations(steps) for steps in taken))

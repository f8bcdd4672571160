"""Describes the cost of a run in one line."""

import numpy as np

from cfx_jax.fido import Status, name_results
from cfx_jax.records import Cost, Costs, Storage
from cfx_jax.runs.explanations import Explanations


def describe_cost(run: Explanations) -> str:
    """Describes the cost of a run, over the units whose time was measured.

    The speed is that of all processes together, the average for a run resumed on other machines.
    Compilation and units that were lost when the run was killed do not count.

    Args:
        run: reader of the run, finished or not.

    Returns:
        One line for all objectives together, such as `400 images, 2.8 images/s, 143 device-seconds,
        560 evaluations per image`. If no time is known, only its last part; "" if nothing is known.
    """
    # An image with several classes to explain gives several examples.
    what = "image" if run.option("top_classes") is None else "example"
    each = _evaluations(run)
    parts = [*_times(run, what), *([f"{each:,} evaluations per {what}"] if each else [])]
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
    """Returns the number of evaluations per example, the mean if images may stop early."""
    return round(sum(_evaluations_of(run, objective) for objective in run.objectives))


def _evaluations_of(run: Explanations, objective: str) -> float:
    names = name_results(objective, run.settings.alternatives)
    steps = float(run.settings.num_steps)
    if run.has_steps:
        # Examples that are not computed or unreadable, and regions not found, have no steps.
        taken = np.concatenate([run.read_result(name, "steps") for name in names])
        steps = float(np.mean(taken[taken > 0])) if (taken > 0).any() else 0.0
    searches: float = len(names)
    if searches > 1 and run.complete.any():
        statuses = np.stack([run.read_result(name, "status") for name in names])
        readable = run.complete & (statuses[0] != Status.UNREADABLE)
        # The last search is the first search that found no region.
        made = np.minimum(np.sum(statuses == Status.OK, axis=0) + 1, len(names))[readable]
        searches = float(np.mean(made)) if made.size else 0.0
    return searches * run.settings.count_evaluations(steps)

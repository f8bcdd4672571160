"""The examples of a run for display: their columns, one unit at a time, and their texts."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from scipy.special import expit

from cfx_jax.metrics import posterior_entropy
from cfx_jax.report import show
from cfx_jax.runs import CLASSES, SCALARS, Explanations

OBJECTIVES = {"ssr": "smallest supporting region", "sdr": "smallest deletion region"}
NUMBERS = (*SCALARS, "entropy")
"""Numbers of a result; `entropy` is the entropy of the mask cells, in bits per cell."""


@dataclasses.dataclass(frozen=True)
class ReportUnit:
    """A unit of a run, without its pictures.

    Attributes:
        indices: indices of the examples in the run.
        ids: ids of the examples.
        classes: class indices by name (`label`, `target` and `prediction`); -1 if unknown.
        results: values of `status` and of each of `NUMBERS`, `[n]`, by objective.
        masks: logits of keeping a cell, `[n, h, w]`, by objective; NaN where no mask is learnt.
    """

    indices: range
    ids: list[str]
    classes: dict[str, list[int]]
    results: dict[str, dict[str, np.ndarray]]
    masks: dict[str, np.ndarray]


def read_units(run: Explanations) -> Iterator[ReportUnit]:
    """Yields the computed units in order; only one unit is in memory at a time."""
    for number in run.complete_units:
        start, stop = run.unit_range(number)
        masks, results = {}, {}
        for objective in run.results:
            logits = run.read_result(objective, "mask_logits", start, stop)
            masks[objective] = logits
            results[objective] = {
                name: run.read_result(objective, name, start, stop) for name in ("status", *SCALARS)
            } | {"entropy": posterior_entropy(expit(logits.astype(np.float32)))}
        yield ReportUnit(
            range(start, stop),
            run.ids(start, stop),
            {name: run.read(name, start, stop).tolist() for name in CLASSES},
            results,
            masks,
        )


def describe(run: Explanations, unit: ReportUnit, row: int) -> dict[str, Any]:
    """Returns the texts of an example in the gallery."""
    results = {
        objective: describe_result(run, {name: of[row].item() for name, of in columns.items()})
        for objective, columns in unit.results.items()
    }
    statuses = [result["status"] for result in results.values()]
    failures = {*statuses} - {"ok", "no_alternative"}
    return {
        "id": unit.ids[row],
        "results": results,
        "failed": bool(failures),
        "unreadable": "unreadable" in statuses,
        **{name: class_name(run, numbers[row]) for name, numbers in unit.classes.items()},
    }


def describe_result(run: Explanations, values: Mapping[str, Any]) -> dict[str, str]:
    """Returns the numbers of a result as texts."""
    return {
        "status": run.status_name(values["status"]),
        "before": show.odds(values["log_odds_original"]),
        "after": show.odds(values["log_odds_infilled"]),
        "kept_area": show.percent(values["kept_area"]),
        "success_rate": show.percent(values["success_rate"]),
        "stability": show.number(values["stability"]),
        "objective": show.number(values["objective"]),
        "entropy": show.number(values["entropy"]),
    }


def class_name(run: Explanations, number: int) -> str:
    """Returns the name of a class with its number, `not known` for -1."""
    if number < 0:
        return "not known"
    known = number < len(run.class_names)
    return f"{run.class_names[number]} ({number})" if known else f"class {number}"


def rather(run: Explanations) -> str:
    """Returns ` rather than CLASS` if the question of a run has a contrast, else ""."""
    contrast = run.option("contrast")
    return "" if contrast is None else f" rather than {class_name(run, contrast)}"

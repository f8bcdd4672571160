"""Reports the progress of a run, and finds damage in its records."""

import collections
import gzip
import json
import os
import zlib
from collections.abc import Iterator

import numpy as np

from cfx_jax.fido import label_result
from cfx_jax.records import COMPLETE, EXAMPLE, STORE, Storage, find_id_problem, is_locked
from cfx_jax.runs.costs import describe_cost
from cfx_jax.runs.explanations import Explanations

# Statuses of examples without an explanation.
_FAILURES = ("unreadable", "non_finite")
_MAX_NAMED = 20


def describe_progress(workdir: str | os.PathLike[str]) -> str:
    """Describes the progress of a run: examples done, statuses, cost and failures.

    Args:
        workdir: the run's folder.

    Returns:
        A few lines of text.

    Raises:
        FileNotFoundError: there is no run in the folder.
        RecordsError: the manifest or an array is damaged, or the folder does not belong to a run.
    """
    run = Explanations(workdir)
    done = run.complete
    running = is_locked(Storage(workdir))
    lines = [
        f"{done.sum():,} of {len(done):,} examples done ({done.mean():.1%}), "
        f"{len(run.complete_units):,} of {run.num_units:,} units"
        + ("; a run is writing to it now" if running else "")
    ]
    failed = np.zeros(len(done), bool)
    for objective in run.results:
        codes = run.read_result(objective, "status")
        counts = collections.Counter(codes[done].tolist())
        listed = ", ".join(f"{counts[code]:,} {run.status_name(code)}" for code in sorted(counts))
        lines.append(f"{label_result(objective)}: {listed or 'nothing yet'}")
        failures = [code for code, name in enumerate(run.status_names) if name in _FAILURES]
        failed |= done & np.isin(codes, failures)
    if cost := describe_cost(run):
        lines.append(f"cost: {cost}")
    if failed.any():
        lines.append(f"{failed.sum():,} failed:")
        ids = run.ids()
        lines += [f"  {ids[index]}" for index in np.flatnonzero(failed)[:_MAX_NAMED]]
        if failed.sum() > _MAX_NAMED:
            lines.append(f"  ... and {failed.sum() - _MAX_NAMED:,} more")
    return "\n".join(lines)


def find_problems(workdir: str | os.PathLike[str]) -> Iterator[str]:
    """Reads and checks all records of a run.

    Args:
        workdir: the run's folder.

    Yields:
        One line for each problem: a lost or damaged chunk, an empty or repeated id, an unknown
        status, or metadata that other libraries cannot read.

    Raises:
        FileNotFoundError: there is no run in the folder.
        RecordsError: the manifest or the metadata of an array are damaged, or the folder does not
            belong to a run.
    """
    run = Explanations(workdir)
    yield from _metadata_problems(Storage(workdir), [field.name for field in run.fields])
    seen: dict[str, int] = {}
    for unit, problems in run.damage():
        start, stop = run.unit_range(unit)
        where = f"unit {unit} (examples {start} to {stop - 1})"
        yield from (f"{where}: {field}: {problem}" for field, problem in problems.items())
        if "id" not in problems:
            for index, text in enumerate(run.ids(start, stop), start):
                if problem := find_id_problem(text):
                    yield f"{where}: example {index} {problem}"
                elif seen.setdefault(text, index) != index:
                    yield f"{where}: example {index} has the id of example {seen[text]}, {text!r}"
        for objective in run.results:
            field = f"{objective}_status"
            if field in problems:
                continue
            codes = set(run.read_result(objective, "status", start, stop).tolist())
            known = set(range(len(run.status_names)))
            yield from (f"{where}: {field}: unknown status {code}" for code in codes - known)


def _metadata_problems(storage: Storage, fields: list[str]) -> Iterator[str]:
    content = storage.read(f"{STORE}/zarr.json")
    try:
        group = json.loads(content or b"")
        if group["zarr_format"] != 3 or group["node_type"] != "group":
            raise ValueError("not the metadata of a Zarr v3 group")
        listed = group["consolidated_metadata"]["metadata"]
        if set(listed) != {*fields, COMPLETE, EXAMPLE}:
            raise ValueError("the listed arrays are not those of the store")
        if not gzip.decompress(storage.read(f"{STORE}/{EXAMPLE}/c/0") or b""):
            raise ValueError(f"the texts of {EXAMPLE} are lost")
    except (EOFError, KeyError, OSError, TypeError, ValueError, zlib.error) as error:
        place = f"{storage.place(STORE)}/zarr.json"
        yield f"{place}: damaged ({error}); delete it; the run writes it again"

"""Checks that records belong to the current data: example by example, not only by id.

The manifest of a run identifies the ids of its data. The label and the digest stored with each
result detect another label or other pixels under the same id.
"""

import concurrent.futures
import logging
import os
from collections.abc import Callable, Mapping, Sequence

import jax

from cfx_jax.data import UNKNOWN_LABEL, UNREADABLE
from cfx_jax.records import ManifestMismatchError, RecordReader, RecordsError
from cfx_jax.runs import cluster

_logger = logging.getLogger(__name__)
# Changes that a differing digest indicates, by the name of its field.
_OTHERS = {"digest": "other bytes", "content": "other bytes, label or boxes"}
_MAX_NAMED = 5
# The threads mostly wait for a disk.
_NUM_THREADS = 16


def check_same_data(
    reader: RecordReader,
    ids: Sequence[str],
    now: Mapping[str, Callable[[int], int]],
    remedy: str = "Put the former data back, choose another --workdir, or delete this one to start "
    "over.",
) -> list[int]:
    """Compares the complete units of this host with the data; the first host compares all units.

    Args:
        reader: reader of records of examples with these ids.
        ids: ids of all examples.
        now: function from an index to the current value, by field `label`, `digest` or `content`.
        remedy: sentence that advises what to do if the data differ.

    Returns:
        Units of this host to compute again, because an unreadable example can be read now.

    Raises:
        ManifestMismatchError: the data differ; the message names the first examples.
    """
    own = range(jax.process_index(), reader.num_units, jax.process_count())
    # The first host writes the gallery with the results of all hosts.
    units = [unit for unit in reader.complete_units if unit in own or cluster.is_first()]
    with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
        results = pool.map(lambda unit: _compare(reader, unit, now), units)
        compared = dict(zip(units, results, strict=True))
    others = [f"{ids[i]}: {what}" for differing, _ in compared.values() for i, what in differing]
    if others:
        if len(others) > _MAX_NAMED:
            others[_MAX_NAMED:] = [f"... and {len(others) - _MAX_NAMED:,} more"]
        raise ManifestMismatchError(
            f"{reader.location} holds results of other data; nothing in it was changed.\n  "
            + "\n  ".join(others)
            + f"\n{remedy}"
        )
    readable = {unit: some for unit, (_, some) in compared.items() if some and unit in own}
    for unit, index in ((unit, index) for unit, some in readable.items() for index in some):
        text = "%s, unit %d: %s could not be read when it was recorded, but can be now"
        _logger.warning(text, reader.location, unit, ids[index])
    return list(readable)


def name_other_id(workdir: str | os.PathLike[str], ids: Sequence[str]) -> str:
    """Describes the first recorded example whose id differs in the current data.

    Args:
        workdir: folder of a run.
        ids: ids of the current data.

    Returns:
        One line; "" if no ids are recorded or all of them are equal.
    """
    try:
        reader = RecordReader(workdir)
        recorded = zip(reader.ids(), reader.complete.tolist(), strict=True)
    except (KeyError, RecordsError):  # There are no ids, or they are damaged.
        return ""
    for index, (before, is_complete) in enumerate(recorded):
        after = ids[index] if index < len(ids) else "none"
        if is_complete and before != after:
            return f"example {index}: {before} then, {after} now"
    return ""


def _compare(
    reader: RecordReader, unit: int, now: Mapping[str, Callable[[int], int]]
) -> tuple[list[tuple[int, str]], list[int]]:
    """Returns the examples that differ, with the reasons, and the newly readable examples."""
    start, stop = reader.unit_range(unit)
    try:
        stored = {name: reader.read(name, start, stop).tolist() for name in now}
    except RecordsError:  # Damaged units are computed again.
        return [], []
    differing, readable = [], []
    for index in range(start, stop):
        found = []
        for name, value in now.items():
            before, after = stored[name][index - start], value(index)
            if before == after:
                continue
            if name == "label":
                found.append(f"label {_named(before)} then, {_named(after)} now")
            elif before == UNREADABLE:
                readable.append(index)
            else:
                found.append("cannot be read now" if after == UNREADABLE else _OTHERS[name])
        if found:
            differing.append((index, ", ".join(found)))
    return differing, readable


def _named(label: int) -> str:
    return "unknown" if label == UNKNOWN_LABEL else str(label)

"""A run's results on disk: `RecordWriter` writes them, `RecordReader` reads them back.

A run's folder (`workdir`, on a local disk or in a bucket) contains

    manifest.json   description of the run, as given to the writer, plus "records": the layout
    records.zarr/   Zarr v3 group, flat: one array per field, `[num_examples, *field.shape]`
    costs.zarr/     computing time of each unit, which is not a result; see `costs`

and can be read without this package: `zarr.open_group` and `xarray.open_zarr` open it, with ids as
the coordinate `example`.

The unit of work is a block of `unit_size` consecutive examples (the last unit may be shorter). A
unit is one Zarr chunk in every array, and is written once. The array `complete`
(uint8 `[num_examples]`, 1 = computed) is written last, after every other chunk of the unit has
reached the disk, so a process killed at any moment leaves each unit complete or absent. A unit with
a damaged chunk counts as absent.
"""

import collections
import errno
import logging
import os
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cfx_jax.records.arrays import open_arrays, write_group
from cfx_jax.records.layout import COMPLETE, Field, Layout, decode_ids
from cfx_jax.records.lock import RunLock
from cfx_jax.records.manifest import claim_folder, read_manifest
from cfx_jax.records.storage import RecordsError, Storage, os_error

_logger = logging.getLogger(__name__)
# Number of units whose chunks are checked concurrently.
_UNITS_IN_CHECKING = 8


class RecordWriter:
    """Writer of a run's results, unit by unit; opening the same folder again resumes the run.

    Several hosts of a run may write to one folder: host h of n owns the units u with u % n == h.
    Two runs may not: on a local disk, the second run is refused while the first is running. A
    bucket has no lock; there, both runs write the same chunks, and each unit stays consistent.

    Example:
        with RecordWriter(workdir, {"config": config}, fields, 1000, unit_size=32) as writer:
            for unit in writer.missing_units():
                start, stop = writer.unit_range(unit)
                writer.write_unit(unit, compute(start, stop))
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        manifest: Mapping[str, Any],
        fields: Sequence[Field],
        num_examples: int,
        unit_size: int,
        host: int = 0,
        num_hosts: int = 1,
        *,
        ids: Sequence[str] = (),
        attributes: Mapping[str, Any] = types.MappingProxyType({}),
        informative: Collection[str] = (),
    ) -> None:
        """Creates the folder, or opens it to resume.

        Args:
            workdir: the run's folder, created if missing.
            manifest: JSON values that describe the run. Its key "environment" (versions, start
                time, devices) is not compared; the value of the first run is kept.
            fields: fields of an example.
            num_examples: length of the example axis.
            unit_size: number of examples computed and written together.
            host: index of this host.
            num_hosts: number of hosts of this run.
            ids: ids of all examples; a new store contains them as the coordinate `example`.
            attributes: JSON values for readers, written when a store is created.
            informative: paths of values that are not compared, as in `claim_folder`.

        Raises:
            ManifestMismatchError: the folder contains a run with another manifest or other fields.
            RecordsError: the folder does not belong to a run, or another run is writing to it.
            ValueError: an argument is invalid.
            OSError: the folder cannot be created or written.
        """
        if not 0 <= host < num_hosts:
            raise ValueError(f"host must be in [0, {num_hosts}), got {host}")
        self._layout = Layout(num_examples, unit_size, tuple(fields))
        if ids and len(ids) != num_examples:
            raise ValueError(f"{len(ids)} ids are given for {num_examples} examples")
        self._host, self._num_hosts = host, num_hosts
        self._storage = _open_storage(workdir)
        claim_folder(self._storage, manifest, self._layout.to_json(), informative)
        self._lock = RunLock(self._storage, host, num_hosts)
        try:
            self._arrays = open_arrays(self._storage, self._layout, create=True)
            write_group(self._storage, self._layout, ids, attributes)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the lock of the folder."""
        self._lock.release()

    def missing_units(self) -> list[int]:
        """Returns the units of this host that are absent, in order.

        All chunks of the complete units are checked; damaged units become absent.
        """
        done = _find_complete(self._arrays, self._layout)
        owned = range(self._host, self._layout.num_units, self._num_hosts)
        marked = [unit for unit in owned if done[unit]]
        for unit, problems in find_damage(self._storage, self._layout, marked):
            if problems:
                _logger.warning("unit %d is damaged, and computed again: %s", unit, problems)
                self.forget(unit)
                done[unit] = False
        return [unit for unit in owned if not done[unit]]

    def forget(self, unit: int) -> None:
        """Marks a unit of this host as absent."""
        start, stop = self._layout.unit_range(unit)
        self._arrays[COMPLETE][start:stop].write(np.zeros(stop - start, np.uint8)).result()

    def unit_range(self, unit: int) -> tuple[int, int]:
        """Returns the examples `[start, stop)` of a unit."""
        return self._layout.unit_range(unit)

    def write_unit(self, unit: int, values: Mapping[str, np.ndarray]) -> None:
        """Writes a whole unit; returns when it is durably stored.

        Args:
            unit: index of a missing unit of this host.
            values: array `[stop - start, *field.shape]` of the field's dtype, by field name.

        Raises:
            ValueError: a field is missing, unknown or of another shape or dtype, or the unit is
                complete already, or belongs to another host. Nothing has been written.
            OSError: the disk is full or unavailable. The unit is absent; all other units are
                intact.
        """
        start, stop = self._layout.unit_range(unit)
        checked = self._layout.check(values, stop - start)
        if unit % self._num_hosts != self._host:
            raise ValueError(
                f"unit {unit} belongs to host {unit % self._num_hosts} of {self._num_hosts}, this "
                f"is host {self._host}"
            )
        mark = self._arrays[COMPLETE][start:stop]
        if _is_marked(mark):
            raise ValueError(
                f"unit {unit} (examples {start} to {stop - 1}) is complete already; "
                "a unit is written once, see missing_units()"
            )
        try:
            writes = [
                self._arrays[name][start:stop].write(value) for name, value in checked.items()
            ]
            # Wait for all writes, so that none is pending when an error is raised.
            failed = [error for write in writes if (error := write.exception()) is not None]
            if failed:
                raise failed[0]
            mark.write(np.ones(stop - start, np.uint8)).result()
        except ValueError as error:
            reason = f"cannot write unit {unit} into {self._storage}, all before it are safe"
            failure = os_error(error, reason)
            if failure.errno == errno.ENOSPC:
                failure.strerror = (
                    f"{failure.strerror}; free some space and resume with the same command"
                )
            raise failure from error


class RecordReader:
    """Reader of a run's results, also while the run is still writing them.

    Attributes:
        location: the folder, as it was given.
        manifest: the manifest of the run that created the folder.
        fields: fields of an example.
        num_examples: length of the example axis, computed or not.

    Example:
        reader = RecordReader(workdir)
        log_odds = reader.read("ssr_log_odds_infilled")[reader.complete]
    """

    def __init__(self, workdir: str | os.PathLike[str]) -> None:
        """Opens a run's folder.

        Raises:
            FileNotFoundError: there is no run in the folder.
            RecordsError: the manifest or an array is damaged.
        """
        self._storage = _open_storage(workdir)
        self.location = self._storage.location
        self.manifest, self._layout = _read_layout(self._storage)
        self.fields = self._layout.fields
        self.num_examples = self._layout.num_examples
        self._arrays = open_arrays(self._storage, self._layout, create=False)

    @property
    def complete(self) -> np.ndarray:
        """Marks of the examples computed so far, bool `[num_examples]`."""
        units = _find_complete(self._arrays, self._layout)
        return np.repeat(units, self._layout.unit_size)[: self.num_examples]

    @property
    def complete_units(self) -> list[int]:
        """Indices of the units computed so far, in order."""
        return np.flatnonzero(_find_complete(self._arrays, self._layout)).tolist()

    @property
    def num_units(self) -> int:
        """Number of units, computed or not."""
        return self._layout.num_units

    def damage(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Reads every chunk of every complete unit.

        Yields:
            Each complete unit, with its problems by field name; no problems if it is intact.
        """
        return find_damage(self._storage, self._layout, self.complete_units)

    def unit_range(self, unit: int) -> tuple[int, int]:
        """Returns the examples `[start, stop)` of a unit."""
        return self._layout.unit_range(unit)

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> np.ndarray:
        """Returns the examples `[start:stop]` of a field.

        Args:
            name: name of the field.
            start: first example, as in a Python slice.
            stop: end of the range, exclusive, as in a Python slice.

        Returns:
            Values `[stop - start, *field.shape]`; 0 or NaN where an example is not computed.

        Raises:
            KeyError: the run has no such field.
            RecordsError: the data on disk are damaged.
        """
        known = [field.name for field in self.fields]
        if name not in known:
            raise KeyError(f"the run has no field {name!r}; it has {', '.join(known)}")
        begin, end, _ = slice(start, stop).indices(self.num_examples)
        try:
            return self._arrays[name][begin : max(begin, end)].read().result()
        except ValueError as error:
            raise RecordsError(
                f"{self._storage}: examples {begin} to {end - 1} of {name} are damaged "
                f"({str(error).partition(' [')[0]}); repeat the command that wrote them: damaged "
                "units are computed again"
            ) from error

    def ids(self, start: int | None = None, stop: int | None = None) -> list[str]:
        """Returns the ids of the examples `[start:stop]`, '' for examples that are not computed."""
        return decode_ids(self.read("id", start, stop))


def find_damage(
    storage: Storage, layout: Layout, units: Sequence[int]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Reads all chunks of units, without a cache.

    Yields:
        Each unit, with its problems by field name; no problems if it is intact.
    """
    arrays = open_arrays(storage, layout, create=False, missing_is_an_error=True) if units else {}
    reading: collections.deque[tuple[int, dict[str, Any]]] = collections.deque()
    for unit in units:
        start, stop = layout.unit_range(unit)
        futures = {field.name: arrays[field.name][start:stop].read() for field in layout.fields}
        reading.append((unit, futures))
        if len(reading) > _UNITS_IN_CHECKING:
            yield _wait(*reading.popleft())
    for pair in reading:
        yield _wait(*pair)


def _wait(unit: int, futures: dict[str, Any]) -> tuple[int, dict[str, str]]:
    problems = {}
    for name, future in futures.items():
        try:
            future.result()
        except ValueError as error:
            problems[name] = str(error).partition(" [")[0]
    return unit, problems


def _find_complete(arrays: Mapping[str, Any], layout: Layout) -> np.ndarray:
    """Returns a mark for each complete unit, bool `[num_units]`."""
    marks, ranges = arrays[COMPLETE], [layout.unit_range(unit) for unit in range(layout.num_units)]
    try:
        return np.logical_and.reduceat(marks.read().result(), [start for start, _ in ranges])
    except ValueError:  # A damaged mark counts as 0; read unit by unit to find it.
        return np.array([_is_marked(marks[start:stop]) for start, stop in ranges])


def _is_marked(mark: Any) -> bool:
    try:
        return bool(mark.read().result().all())
    except ValueError:
        return False


def _open_storage(workdir: str | os.PathLike[str]) -> Storage:
    try:
        return Storage(workdir)
    except ValueError as error:
        raise RecordsError(f"workdir {error}") from error


def _read_layout(storage: Storage) -> tuple[dict[str, Any], Layout]:
    manifest, stored = read_manifest(storage)
    try:
        return manifest, Layout.from_json(stored)
    except ValueError as error:
        if not stored:
            raise RecordsError(
                f"{storage} contains no records: its manifest describes something else, such as a "
                "training; expected the workdir of python -m cfx_jax.main"
            ) from error
        raise RecordsError(
            f'{storage.place("manifest.json")}: the entry "records" is damaged ({error})'
        ) from error

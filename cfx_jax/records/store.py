"""A run's results on disk: `RecordWriter` writes them, `RecordReader` reads them back.

A run's folder (`workdir`) holds

    manifest.json   what was run, as handed to the writer, plus "records": the layout of the store
    records.zarr/   Zarr v3 group, flat: one array a field, `[num_examples, *field.shape]`

and needs nothing of this package to be read: `zarr.open_group` and `xarray.open_zarr` open it.

The unit of work is a block of `unit_size` consecutive examples (the last one may be shorter). A
unit is one Zarr chunk in every array, computed whole and written once. The array `complete`
(uint8 `[num_examples]`, 1 = computed) is written last, after every other chunk of the unit has
reached the disk, so a process killed at any moment leaves each unit complete or absent.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from cfx_jax.manifest import RecordsError, claim_folder, read_manifest, write_atomically

_COMPLETE = "complete"
_CODECS = [{"name": "zstd", "configuration": {"level": 3, "checksum": True}}]


@dataclasses.dataclass(frozen=True)
class Field:
    """One value kept per example.

    Attributes:
        name: a lower-case identifier, the name of the array.
        dtype: NumPy name of a bool, integer or floating type, such as "float16".
        shape: shape of one example's value, without the example axis.
        dims: names of the axes in `shape`; `("{name}_0", "{name}_1", ...)` when left out. Fields
            may share a name only where they share the size.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    dims: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"field name {self.name!r} is no identifier of [a-z0-9_]")
        try:
            dtype = np.dtype(self.dtype)
        except TypeError as error:
            raise ValueError(f"field {self.name!r}: unknown dtype {self.dtype!r}") from error
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise ValueError(
                f"field {self.name!r}: dtype must be bool, integer or float, got {self.dtype!r}"
            )
        shape = tuple(int(size) for size in self.shape)
        if min(shape, default=1) < 1:
            raise ValueError(f"field {self.name!r}: sizes in shape must be >= 1, got {shape}")
        dims = tuple(self.dims) or tuple(f"{self.name}_{axis}" for axis in range(len(shape)))
        if len(dims) != len(shape) or len(set(dims)) != len(dims):
            raise ValueError(
                f"field {self.name!r}: dims must name each of the {len(shape)} axes in shape once, "
                f"got {dims}"
            )
        object.__setattr__(self, "dtype", dtype.name)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "dims", dims)


def encode_ids(ids: Sequence[str], width: int) -> np.ndarray:
    """Returns ids as zero-padded UTF-8 bytes, the content of the field `id`.

    Args:
        ids: N texts.
        width: bytes kept per id.

    Returns:
        uint8 `[N, width]`.

    Raises:
        ValueError: an id is longer than `width` bytes, is not text, or ends with a NUL character.
    """
    encoded = np.zeros((len(ids), width), np.uint8)
    for row, text in zip(encoded, ids, strict=True):
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"id {text!r} cannot be written as UTF-8: {error.reason}") from error
        if len(data) > width:
            raise ValueError(f"id {text!r} takes {len(data)} bytes, more than the width {width}")
        if data.endswith(b"\0"):
            raise ValueError(f"id {text!r} ends with a NUL character, which is the padding")
        row[: len(data)] = np.frombuffer(data, np.uint8)
    return encoded


def decode_ids(encoded: np.ndarray) -> list[str]:
    """Returns the texts behind uint8 `[N, width]`; an absent example has the id ''."""
    rows = np.ascontiguousarray(encoded, np.uint8)
    return [row.tobytes().rstrip(b"\0").decode("utf-8") for row in rows]


class RecordWriter:
    """Writes a run's results unit by unit; opening the same folder again resumes the run.

    Several processes may write to one folder at once, provided each unit has one owner.

    Example:
        writer = RecordWriter(workdir, {"config": config}, fields, num_examples=1000, unit_size=32)
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
    ) -> None:
        """Creates the folder, or opens it to resume.

        Args:
            workdir: the run's folder on a local disk, made when missing.
            manifest: JSON values that tell what is run. Its key "environment" (versions, start
                time, devices) is informative: not compared, and kept as the first run wrote it.
            fields: what is kept per example.
            num_examples: length of the example axis.
            unit_size: examples computed and written together.

        Raises:
            ManifestMismatchError: the folder holds a run with another manifest or other fields.
            RecordsError: the folder holds something else than a run.
            ValueError: an argument is unusable.
            OSError: the folder cannot be made or written.
        """
        self._layout = _Layout(num_examples, unit_size, tuple(fields))
        root = _local_path(workdir)
        claim_folder(root, manifest, self._layout.to_json())
        self._arrays = _open_arrays(root, self._layout, create=True)
        _write_group(root, self._layout)

    def missing_units(self) -> list[int]:
        """Returns the units not on disk yet, in order."""
        done = self._arrays[_COMPLETE].read().result()
        ranges = map(self._layout.unit_range, range(self._layout.num_units))
        return [unit for unit, (start, stop) in enumerate(ranges) if not done[start:stop].all()]

    def unit_range(self, unit: int) -> tuple[int, int]:
        """Returns the examples `[start, stop)` of a unit."""
        return self._layout.unit_range(unit)

    def write_unit(self, unit: int, values: Mapping[str, np.ndarray]) -> None:
        """Writes a whole unit; returns when it is durably on disk.

        Args:
            unit: index of a missing unit.
            values: per field an array `[stop - start, *field.shape]` of the field's dtype.

        Raises:
            ValueError: a field is missing, unknown or of another shape or dtype, or the unit is
                complete already. Nothing has been written then.
        """
        start, stop = self._layout.unit_range(unit)
        checked = self._layout.check(values, stop - start)
        complete = self._arrays[_COMPLETE][start:stop]
        if complete.read().result().all():
            raise ValueError(
                f"unit {unit} (examples {start} to {stop - 1}) is complete already; "
                "a unit is written once, see missing_units()"
            )
        writes = [self._arrays[name][start:stop].write(value) for name, value in checked.items()]
        for write in writes:
            write.result()
        complete.write(np.ones(stop - start, np.uint8)).result()


class RecordReader:
    """Reads a run's results, also while the run is still writing them.

    Attributes:
        manifest: the manifest of the run that created the folder.
        fields: what is kept per example.
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
        root = _local_path(workdir)
        self.manifest, layout_json = read_manifest(root)
        layout = _Layout.from_json(root, layout_json)
        self.fields = layout.fields
        self.num_examples = layout.num_examples
        self._arrays = _open_arrays(root, layout, create=False)

    @property
    def complete(self) -> np.ndarray:
        """Which examples are computed by now, bool `[num_examples]`."""
        return self._arrays[_COMPLETE].read().result().astype(bool)

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> np.ndarray:
        """Returns the examples `[start:stop]` of a field.

        Args:
            name: a field of the run.
            start: first example, as in a Python slice.
            stop: one past the last example, as in a Python slice.

        Returns:
            `[stop - start, *field.shape]`; 0 or NaN where an example is not computed.

        Raises:
            KeyError: the run has no such field.
            ValueError: the data on disk are damaged.
        """
        known = [field.name for field in self.fields]
        if name not in known:
            raise KeyError(f"the run has no field {name!r}; it has {', '.join(known)}")
        begin, end, _ = slice(start, stop).indices(self.num_examples)
        return self._arrays[name][begin : max(begin, end)].read().result()

    def ids(self) -> list[str]:
        """Returns the id of every example, '' where it is not computed; needs the field `id`."""
        return decode_ids(self.read("id"))


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The store's shape: what the writer makes and the reader finds in the manifest."""

    num_examples: int
    unit_size: int
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        if self.num_examples < 1 or self.unit_size < 1:
            raise ValueError(
                "num_examples and unit_size must be >= 1, "
                f"got {self.num_examples} and {self.unit_size}"
            )
        names = [field.name for field in self.fields]
        repeated = {name for name in [*names, _COMPLETE] if [*names, _COMPLETE].count(name) > 1}
        if repeated or not names:
            raise ValueError(
                f"fields must have names of their own, other than {_COMPLETE!r}, got {names}"
            )
        sizes = {"example": self.num_examples}
        for field in self.fields:
            for dim, size in zip(field.dims, field.shape, strict=True):
                # xarray refuses an axis of two sizes, and one named as a field.
                if dim in ("example", _COMPLETE, *names) or sizes.setdefault(dim, size) != size:
                    raise ValueError(
                        f"field {field.name!r}: the axis name {dim!r} (size {size}) is taken by a "
                        "field or by an axis of another size"
                    )

    @property
    def num_units(self) -> int:
        return math.ceil(self.num_examples / self.unit_size)

    def unit_range(self, unit: int) -> tuple[int, int]:
        if not 0 <= unit < self.num_units:
            raise ValueError(f"unit must be in [0, {self.num_units}), got {unit}")
        start = unit * self.unit_size
        return start, min(start + self.unit_size, self.num_examples)

    def check(self, values: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
        """Returns `values` as arrays that fit the fields, or raises."""
        names = {field.name for field in self.fields}
        if missing := sorted(names - set(values)):
            raise ValueError(f"values lack the fields {', '.join(missing)}")
        if unknown := sorted(set(values) - names):
            raise ValueError(f"values hold unknown fields {', '.join(unknown)}")
        checked = {field.name: np.asarray(values[field.name]) for field in self.fields}
        for field in self.fields:
            value, shape = checked[field.name], (rows, *field.shape)
            if value.shape != shape or value.dtype != field.dtype:
                raise ValueError(
                    f"field {field.name!r} must be {field.dtype} {list(shape)}, "
                    f"got {value.dtype} {list(value.shape)}"
                )
        return checked

    def to_json(self) -> dict[str, Any]:
        fields = {
            field.name: {"dtype": field.dtype, "shape": [*field.shape], "dims": [*field.dims]}
            for field in self.fields
        }
        sizes = {"num_examples": int(self.num_examples), "unit_size": int(self.unit_size)}
        return sizes | {"fields": fields}

    @classmethod
    def from_json(cls, root: pathlib.Path, stored: Any) -> "_Layout":
        try:
            fields = tuple(
                Field(name, entry["dtype"], tuple(entry["shape"]), tuple(entry["dims"]))
                for name, entry in stored["fields"].items()
            )
            return cls(int(stored["num_examples"]), int(stored["unit_size"]), fields)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RecordsError(
                f'{root / "manifest.json"}: the entry "records" is damaged ({error!r})'
            ) from error


def _local_path(workdir: str | os.PathLike[str]) -> pathlib.Path:
    if "://" in os.fspath(workdir):
        raise RecordsError(f"workdir must be a folder on a local disk, got {workdir}")
    return pathlib.Path(workdir).absolute()


def _open_arrays(root: pathlib.Path, layout: _Layout, create: bool) -> dict[str, Any]:
    """Opens one TensorStore a field, and `complete`, all at once."""
    opening = {
        field.name: ts.open(
            {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": f"{root / 'records.zarr' / field.name}/"},
                "metadata": _array_metadata(field, layout),
            },
            open=True,
            create=create,
        )
        for field in (*layout.fields, Field(_COMPLETE, "uint8"))
    }
    arrays = {}
    for name, future in opening.items():
        try:
            arrays[name] = future.result()
        except ValueError as error:
            raise RecordsError(
                f"{root}: the array {name!r} of records.zarr is missing or damaged; resume the "
                f"run if it has only just started, else delete the folder ({error})"
            ) from error
    return arrays


def _array_metadata(field: Field, layout: _Layout) -> dict[str, Any]:
    fill = {"b": False, "f": "NaN"}.get(np.dtype(field.dtype).kind, 0)
    chunk = {"name": "regular", "configuration": {"chunk_shape": [layout.unit_size, *field.shape]}}
    return {
        "shape": [layout.num_examples, *field.shape],
        "chunk_grid": chunk,
        "data_type": field.dtype,
        "fill_value": fill,
        "codecs": _CODECS,
        "dimension_names": ["example", *field.dims],
    }


def _write_group(root: pathlib.Path, layout: _Layout) -> None:
    """Makes the arrays a Zarr group; with the arrays' metadata, for which xarray asks."""
    store = root / "records.zarr"
    if (store / "zarr.json").exists():
        return
    names = [field.name for field in layout.fields] + [_COMPLETE]
    arrays = {name: json.loads((store / name / "zarr.json").read_text("utf-8")) for name in names}
    consolidated = {"kind": "inline", "must_understand": False, "metadata": arrays}
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {},
        "consolidated_metadata": consolidated,
    }
    write_atomically(store / "zarr.json", json.dumps(group, indent=2).encode())

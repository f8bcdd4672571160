"""The layout of a store: the fields of an example, and the division of examples into units."""

import dataclasses
import gzip
import math
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

COMPLETE = "complete"
"""Name of the array that marks the computed examples."""

EXAMPLE = "example"
"""Name of the example axis, and of the array of ids that is its coordinate."""

_CODECS = [{"name": "zstd", "configuration": {"level": 3, "checksum": True}}]


@dataclasses.dataclass(frozen=True)
class Field:
    """A value stored per example.

    Attributes:
        name: name of the array, a lower-case identifier.
        dtype: NumPy name of a bool, integer or floating type, such as "float16".
        shape: shape of one example's value, without the example axis.
        dims: names of the axes in `shape`; by default `("{name}_0", "{name}_1", ...)`. Fields may
            share an axis name only if they share its size.
        attributes: JSON values by name, for readers of the store; not compared on resumption.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    dims: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)

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
        ids: N ids.
        width: number of bytes per id.

    Returns:
        Encoded ids, uint8 `[N, width]`.

    Raises:
        ValueError: an id is longer than `width` bytes, or is unusable, see `find_id_problem`.
    """
    encoded = np.zeros((len(ids), width), np.uint8)
    for row, text in zip(encoded, ids, strict=True):
        # An absent example has the id "".
        if text and (problem := find_id_problem(text)):
            raise ValueError(f"an example {problem}")
        data = _to_utf8(text)
        if len(data) > width:
            raise ValueError(f"id {text!r} takes {len(data)} bytes, more than the width {width}")
        row[: len(data)] = np.frombuffer(data, np.uint8)
    return encoded


def find_id_problem(text: str) -> str:
    """Returns the reason why a text cannot be read back as the id of an example, or ""."""
    if not text:
        return "has no id"
    if text.endswith("\0"):
        return f"has the id {text!r}, which ends with a NUL character, the padding"
    try:
        _to_utf8(text)
    except ValueError as error:
        return f"has an unusable id: {error}"
    return ""


def encode_texts(texts: Sequence[str]) -> tuple[bytes, dict[str, Any]]:
    """Returns texts as a Zarr array of one chunk, which TensorStore cannot write.

    Args:
        texts: N texts.

    Returns:
        `(chunk, metadata)`. The chunk contains N, and for each text its length in bytes and its
        bytes; numbers are 32-bit little-endian, as the codec `vlen-utf8` requires. It is
        compressed by gzip.

    Raises:
        ValueError: a text cannot be written as UTF-8.
    """
    data = [_to_utf8(text) for text in texts]
    items = [struct.pack("<I", len(item)) + item for item in data]
    chunk = struct.pack("<I", len(items)) + b"".join(items)
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [len(texts)],
        "data_type": "string",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [len(texts)]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "",
        "codecs": [{"name": "vlen-utf8"}, {"name": "gzip", "configuration": {"level": 6}}],
        "attributes": {},
        "dimension_names": [EXAMPLE],
    }
    # The header has no time stamp, so that several processes write the same bytes.
    return gzip.compress(chunk, 6, mtime=0), metadata


def _to_utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"id {text!r} cannot be written as UTF-8: {error.reason}") from error


def decode_ids(encoded: np.ndarray) -> list[str]:
    """Returns the ids in uint8 `[N, width]`; an absent example has the id ''."""
    rows = np.ascontiguousarray(encoded, np.uint8)
    return [row.tobytes().rstrip(b"\0").decode("utf-8") for row in rows]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layout of a store, which the writer stores in the manifest.

    Attributes:
        num_examples: length of the example axis.
        unit_size: number of examples computed and written together.
        fields: fields of an example.
    """

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
        if len({*names, COMPLETE, EXAMPLE}) < len(names) + 2 or not names:
            raise ValueError(
                f"fields must have unique names, other than {COMPLETE!r} and {EXAMPLE!r}, "
                f"got {names}"
            )
        sizes = {EXAMPLE: self.num_examples}
        for field in self.fields:
            for dim, size in zip(field.dims, field.shape, strict=True):
                # xarray refuses an axis with two sizes, and an axis with the name of a field.
                if dim in (EXAMPLE, COMPLETE, *names) or sizes.setdefault(dim, size) != size:
                    raise ValueError(
                        f"field {field.name!r}: the axis name {dim!r} (size {size}) is taken by a "
                        "field or by an axis of another size"
                    )

    @property
    def num_units(self) -> int:
        """Number of units; the last unit may be shorter."""
        return math.ceil(self.num_examples / self.unit_size)

    def unit_range(self, unit: int) -> tuple[int, int]:
        """Returns the examples `[start, stop)` of a unit."""
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
            raise ValueError(f"values contain unknown fields {', '.join(unknown)}")
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
        """Returns JSON values for the manifest."""
        fields = {
            field.name: {"dtype": field.dtype, "shape": [*field.shape], "dims": [*field.dims]}
            for field in self.fields
        }
        sizes = {"num_examples": int(self.num_examples), "unit_size": int(self.unit_size)}
        return sizes | {"fields": fields}

    @classmethod
    def from_json(cls, stored: Any) -> "Layout":
        """Undoes `to_json`.

        Raises:
            ValueError: an entry is missing or invalid.
        """
        try:
            fields = tuple(
                Field(name, entry["dtype"], tuple(entry["shape"]), tuple(entry["dims"]))
                for name, entry in stored["fields"].items()
            )
            return cls(int(stored["num_examples"]), int(stored["unit_size"]), fields)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(repr(error)) from error

    def array_metadata(self, field: Field) -> dict[str, Any]:
        """Returns the Zarr v3 metadata of a field's array: a unit is one chunk."""
        fill = {"b": False, "f": "NaN"}.get(np.dtype(field.dtype).kind, 0)
        chunk_shape = [self.unit_size, *field.shape]
        return {
            "shape": [self.num_examples, *field.shape],
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
            "data_type": field.dtype,
            "fill_value": fill,
            "codecs": _CODECS,
            "dimension_names": [EXAMPLE, *field.dims],
        }

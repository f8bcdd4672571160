"""A run's numbers as one table, and its masks as pictures, for other programs and people."""

import csv
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from cfx_jax.records.layout import decode_ids
from cfx_jax.records.manifest import read_block_size
from cfx_jax.records.store import RecordReader
from cfx_jax.report import pictures

FORMATS = ("parquet", "csv")
_CLASSES = ("label", "target", "prediction")
_LONGEST_NAME = 80


def export_table(
    workdir: str | os.PathLike[str], folder: str | os.PathLike[str], kind: str = "parquet"
) -> pathlib.Path:
    """Writes a table with one row for each example that is computed.

    Its columns are `id`, the classes by number and, where they have some, by name, and every number
    that is kept of each objective, statuses by name.

    Args:
        workdir: the run's folder.
        folder: where to write, on a local disk; made when missing.
        kind: `"parquet"` or `"csv"`.

    Returns:
        Path of the table, `explanations.parquet` or `explanations.csv`.

    Raises:
        FileNotFoundError: there is no run in the folder.
        RecordsError: the manifest or an array is damaged.
        FileExistsError: there is a table already.
        ValueError: a chunk of the records is damaged.
    """
    reader = RecordReader(workdir)
    path = pathlib.Path(folder) / f"explanations.{kind}"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Made here and now, so that nothing that is there is overwritten.
    with path.open("xb"):
        pass
    try:
        (_write_parquet if kind == "parquet" else _write_csv)(path, reader)
    except BaseException:
        path.unlink()
        raise
    return path


def export_pictures(workdir: str | os.PathLike[str], folder: str | os.PathLike[str]) -> int:
    """Draws every mask that was learnt, over its photograph if the records keep it.

    Args:
        workdir: the run's folder.
        folder: where to write, on a local disk; made when missing.

    Returns:
        How many `INDEX-ID-OBJECTIVE.png` were written.

    Raises:
        FileNotFoundError: there is no run in the folder.
        RecordsError: the manifest or an array is damaged.
        ValueError: a chunk of the records is damaged.
    """
    reader, folder = RecordReader(workdir), pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    block_size = read_block_size(reader.manifest)
    has_photos = "image" in {field.name for field in reader.fields}
    written = 0
    for start, stop in _parts(reader):
        ids = reader.ids(start, stop)
        photos = reader.read("image", start, stop) if has_photos else [None] * (stop - start)
        for objective in reader.manifest["objectives"]:
            masks = reader.read(f"{objective}_mask_logits", start, stop)
            for row, logits in enumerate(masks):
                if np.isnan(logits).any():
                    continue
                drawn = pictures.draw_saliency(logits, objective, photos[row], block_size)
                name = f"{start + row:06d}-{_safe(ids[row])}-{objective}.png"
                (folder / name).write_bytes(pictures.png(drawn))
                written += 1
    return written


def _parts(reader: RecordReader) -> Iterator[tuple[int, int]]:
    """The examples of each complete unit: no more of them is in memory at once."""
    return (reader.unit_range(unit) for unit in reader.complete_units)


def _columns(reader: RecordReader, start: int, stop: int) -> dict[str, list[Any]]:
    """The rows of a part of the table, by column."""
    class_names = reader.manifest.get("class_names")
    status_names = dict(enumerate(reader.manifest["status_names"]))
    columns: dict[str, list[Any]] = {}
    for field in reader.fields:
        if field.name == "id":
            columns["id"] = decode_ids(reader.read("id", start, stop))
        elif not field.shape:
            values = reader.read(field.name, start, stop).tolist()
            if field.name.endswith("_status"):
                values = [status_names.get(code, f"unknown {code}") for code in values]
            columns[field.name] = values
            if field.name in _CLASSES and class_names:
                known = dict(enumerate(class_names))
                columns[f"{field.name}_name"] = [known.get(number, "") for number in values]
    return columns


def _write_csv(path: pathlib.Path, reader: RecordReader) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for number, part in enumerate(_parts(reader)):
            columns = _columns(reader, *part)
            if not number:
                writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))


def _write_parquet(path: pathlib.Path, reader: RecordReader) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.Table.from_pydict(_columns(reader, 0, 1)).schema
    with pq.ParquetWriter(path, schema) as writer:
        for part in _parts(reader):
            writer.write_table(pa.Table.from_pydict(_columns(reader, *part), schema))


def _safe(text: str) -> str:
    """An id as a part of a file name; the index before it keeps names apart."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[-_LONGEST_NAME:]

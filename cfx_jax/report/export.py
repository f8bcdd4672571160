"""Exports a run's numbers as a table, and its masks as pictures."""

import csv
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from cfx_jax.report import pictures
from cfx_jax.runs import CLASSES, SCALARS, Explanations

FORMATS = ("parquet", "csv")
_LONGEST_NAME = 80


def export_table(
    workdir: str | os.PathLike[str], folder: str | os.PathLike[str], kind: str = "parquet"
) -> pathlib.Path:
    """Writes a table with one row per computed example.

    Its columns are `id`, the classes by number and, if known, by name, and all stored numbers of
    each objective, with statuses by name.

    Args:
        workdir: the run's folder.
        folder: folder to write to, on a local disk; created if missing.
        kind: format of the table, `"parquet"` or `"csv"`.

    Returns:
        Path of the table, `explanations.parquet` or `explanations.csv`.

    Raises:
        FileNotFoundError: there is no run in the folder.
        RecordsError: the manifest or a chunk is damaged, or does not belong to a run.
        FileExistsError: the table exists already.
    """
    run = Explanations(workdir)
    path = pathlib.Path(folder) / f"explanations.{kind}"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Create the file exclusively, so that no existing table is overwritten.
    with path.open("xb"):
        pass
    try:
        (_write_parquet if kind == "parquet" else _write_csv)(path, run)
    except BaseException:
        path.unlink()
        raise
    return path


def export_pictures(workdir: str | os.PathLike[str], folder: str | os.PathLike[str]) -> int:
    """Draws every learnt mask, over its photograph if the records contain it.

    Args:
        workdir: the run's folder.
        folder: folder to write to, on a local disk; created if missing.

    Returns:
        Number of files `INDEX-ID-OBJECTIVE.png` that were written.

    Raises:
        FileNotFoundError: there is no run in the folder.
        RecordsError: the manifest or a chunk is damaged, or does not belong to a run.
    """
    run, folder = Explanations(workdir), pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for start, stop in _parts(run):
        ids = run.ids(start, stop)
        photos = run.read("image", start, stop) if run.has_pictures else [None] * (stop - start)
        for objective in run.results:
            masks = run.read_result(objective, "mask_logits", start, stop)
            for row, logits in enumerate(masks):
                if np.isnan(logits).any():
                    continue
                drawn = pictures.draw_saliency(
                    logits, objective, photos[row], run.settings.mask_law
                )
                name = f"{start + row:06d}-{_safe(ids[row])}-{objective}.png"
                (folder / name).write_bytes(pictures.encode_png(drawn))
                written += 1
    return written


def _parts(run: Explanations) -> Iterator[tuple[int, int]]:
    """Returns the example ranges of the complete units, to read one unit at a time."""
    return (run.unit_range(unit) for unit in run.complete_units)


def _columns(run: Explanations, start: int, stop: int) -> dict[str, list[Any]]:
    """Returns the rows of a part of the table, by column."""
    columns: dict[str, list[Any]] = {"id": run.ids(start, stop)}
    names = dict(enumerate(run.class_names))
    for name in CLASSES:
        columns[name] = run.read(name, start, stop).tolist()
        if names:
            columns[f"{name}_name"] = [names.get(number, "") for number in columns[name]]
    for objective in run.results:
        codes = run.read_result(objective, "status", start, stop).tolist()
        columns[f"{objective}_status"] = [run.status_name(code) for code in codes]
        for name in (*SCALARS, *["steps"] * run.has_steps):
            values = run.read_result(objective, name, start, stop).tolist()
            columns[f"{objective}_{name}"] = values
    return columns


def _write_csv(path: pathlib.Path, run: Explanations) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_columns(run, 0, 0))
        for part in _parts(run):
            writer.writerows(zip(*_columns(run, *part).values(), strict=True))


def _write_parquet(path: pathlib.Path, run: Explanations) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.Table.from_pydict(_columns(run, 0, 1)).schema
    with pq.ParquetWriter(path, schema) as writer:
        for part in _parts(run):
            writer.write_table(pa.Table.from_pydict(_columns(run, *part), schema))


def _safe(text: str) -> str:
    """Returns an id as part of a file name; the index before it keeps file names unique."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[-_LONGEST_NAME:]

"""A run's numbers as one table, and its masks as pictures, for other programs and people."""

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
        RecordsError: the manifest or a chunk is damaged, or of something else than a run.
        FileExistsError: there is a table already.
    """
    run = Explanations(workdir)
    path = pathlib.Path(folder) / f"explanations.{kind}"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Made here and now, so that nothing that is there is overwritten.
    with path.open("xb"):
        pass
    try:
        (_write_parquet if kind == "parquet" else _write_csv)(path, run)
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
        RecordsError: the manifest or a chunk is damaged, or of something else than a run.
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
    """The examples of each complete unit: no more of them is in memory at once."""
    return (run.unit_range(unit) for unit in run.complete_units)


def _columns(run: Explanations, start: int, stop: int) -> dict[str, list[Any]]:
    """The rows of a part of the table, by column."""
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
    """An id as a part of a file name; the index before it keeps names apart."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[-_LONGEST_NAME:]

"""The table of a folder of images, `manifest.csv`: files, labels, boxes and splits."""

import csv
import pathlib

import numpy as np

from cfx_jax.config import ConfigError
from cfx_jax.data.source import UNKNOWN_LABEL


def read_manifest(path: pathlib.Path, split: str) -> tuple[list[str], list[int], list[np.ndarray]]:
    """Reads the columns `file`, `label`, `boxes` and `split`, where present, of a manifest.csv."""
    try:
        # Spreadsheets begin UTF-8 files with a byte order mark.
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        if split:
            rows = [row for row in rows if row["split"] == split]
        names = [row["file"] for row in rows]
        labels = [int(row.get("label") or UNKNOWN_LABEL) for row in rows]
        if not all(names) or min(labels, default=0) < UNKNOWN_LABEL:
            raise ValueError("a row has no file or a label below -1")
        boxes = [_parse_boxes(row.get("boxes") or "") for row in rows]
    except (KeyError, ValueError, csv.Error) as error:
        raise ConfigError(
            f"{path}: expected a column `file`, if labels are known a column `label` of whole "
            f"numbers, if boxes are known a column `boxes` such as `4 0 96 64.5; 8 8 20 20` "
            f"(x0 y0 x1 y1 in pixels), and a column `split` if one is asked for "
            f"({type(error).__name__}: {error})"
        ) from error
    if len(set(names)) != len(names):
        raise ConfigError(f"{path}: a file is listed twice, but each example needs its own id")
    return names, labels, boxes


def _parse_boxes(text: str) -> np.ndarray:
    boxes = [[float(number) for number in box.split()] for box in text.split(";") if box.strip()]
    for box in boxes:
        if len(box) != 4 or not np.isfinite(box).all() or box[0] > box[2] or box[1] > box[3]:
            raise ValueError(f"boxes {text!r} are not of four numbers with x0 <= x1 and y0 <= y1")
    return np.array(boxes, np.float32).reshape(-1, 4)

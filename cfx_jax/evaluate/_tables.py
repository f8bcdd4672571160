"""Writes tables and plots from the stores of an evaluation; no accelerator is needed.

All numbers are over the images that all methods have measured, so that methods are compared on the
same images; each mean has a 95 % interval over images. `table.json` contains all numbers,
`table.csv` one line per number, `table.md` the tables for readers, `images.csv` one line per image
and method.
"""

import csv
import io
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cfx_jax.data import UNKNOWN_LABEL
from cfx_jax.evaluate._markdown import LEARNT_METRICS, SANITY_METRICS, to_markdown
from cfx_jax.evaluate.measures import Learnt
from cfx_jax.metrics import bootstrap, curve_area, localisation, masks, paired_difference
from cfx_jax.records import RecordReader, RecordsError, Storage
from cfx_jax.report import pictures

_IMAGES = "images"
_BLOCK = 64  # Number of images whose maps are compared together.
_IMAGES_SHOWN = 8
BOXES = ("whole", "centre", "truth")
_CENTRE_BOX = "box: centre"
_Columns = dict[str, dict[str, np.ndarray]]  # By method and metric, float [N].


def write_tables(
    workdir: str | os.PathLike[str],
    stores: Mapping[str, str],
    infills: Sequence[str],
    transfer_classifiers: Sequence[str],
    learnt: Sequence[Learnt],
) -> str:
    """Writes the tables and plots of an evaluation.

    Args:
        workdir: folder of the evaluation.
        stores: folder of the records of each method and of `images`, by name.
        infills: names of the generators of the curves.
        transfer_classifiers: names of the transfer classifiers.
        learnt: parts with learnt masks.

    Returns:
        The tables as Markdown.

    Raises:
        RecordsError: there is no image that all methods have measured.
    """
    readers = {name: RecordReader(folder) for name, folder in stores.items()}
    rows = np.flatnonzero(np.all([reader.complete for reader in readers.values()], axis=0))
    photos = _read(readers.pop(_IMAGES), rows)
    rows, photos = rows[photos["target"] >= 0], _take(photos, photos["target"] >= 0)
    if not len(rows):
        raise RecordsError("no image is measured by all methods: continue the runs, then try again")
    photos["is_top_1"] = np.where(
        photos["label"] == UNKNOWN_LABEL, np.nan, photos["prediction"] == photos["label"]
    )
    columns, curves = _read_methods(readers, rows, photos, infills, transfer_classifiers, learnt)
    is_labelled = np.isfinite(photos["is_top_1"])
    summary = {
        "num_images": len(rows),
        "num_labelled": int(is_labelled.sum()),
        "top_1": float(photos["is_top_1"][is_labelled].mean()) if is_labelled.any() else None,
        "methods": {
            subset: _control_boxes(_take(photos, chosen))
            | {name: _intervals(values) for name, values in columns[subset].items()}
            for subset, chosen in _subsets(photos).items()
        },
        "differences": _differences(columns, photos, learnt),
        "agreement": _agreement(readers, rows, learnt),
        "restart_variance": _restarts(rows, learnt),
    }
    text = to_markdown(summary, infills, transfer_classifiers)
    storage = Storage(workdir)
    storage.write("table.json", json.dumps(summary, indent=2, allow_nan=False).encode())
    storage.write("table.csv", _to_csv(summary))
    ids = next(iter(readers.values())).ids()
    storage.write("images.csv", _images_csv([ids[row] for row in rows], photos, columns["all"]))
    storage.write("table.md", text.encode())
    storage.write("curves.png", pictures.encode_png(pictures.draw_curves(curves, infills)))
    shown = [int(row) for row in rows[:_IMAGES_SHOWN]]
    maps = {name: np.concatenate([reader.read("map", row, row + 1) for row in shown])
            for name, reader in readers.items()}  # fmt: skip
    storage.write("maps.png", pictures.encode_png(pictures.draw_maps(maps)))
    return text


def _read_methods(
    readers: Mapping[str, RecordReader],
    rows: np.ndarray,
    photos: Mapping[str, np.ndarray],
    infills: Sequence[str],
    transfer_classifiers: Sequence[str],
    learnt: Sequence[Learnt],
) -> tuple[dict[str, _Columns], dict[str, dict[str, np.ndarray]]]:
    """Reads the methods one at a time, and keeps only one number per image and metric.

    Returns:
        The columns of the table of each subset, and for each method the means over images
        `[1, ...]` that the plots need.
    """
    objectives = {part.name: part.objective for part in learnt}
    subsets = _subsets(photos)
    columns: dict[str, _Columns] = {subset: {} for subset in subsets}
    curves = {}
    for name, reader in readers.items():
        values = _read(reader, rows)
        if name in objectives:
            _add_failures(values, objectives[name], infills)
        for subset, chosen in subsets.items():
            some = _take(values, chosen)
            columns[subset][name] = _columns(
                photos["is_top_1"][chosen], some, infills, transfer_classifiers
            )
        is_known = np.isfinite(values["deletion"]).all(axis=(1, 2))
        shown = values.keys() & {"deletion", "insertion", "success_rate"}
        if is_known.any():
            curves[name] = {key: values[key][is_known].mean(0, keepdims=True) for key in shown}
    return columns, curves


def _read(reader: RecordReader, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Reads all numbers of a store except its maps, which are read in blocks."""
    others = ("id", "content", "map")
    names = [field.name for field in reader.fields if field.name not in others]
    return {name: reader.read(name)[rows] for name in names}


def _take(values: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: value[rows] for name, value in values.items()}


def _add_failures(values: dict[str, np.ndarray], objective: str, infills: Sequence[str]) -> None:
    """Adds `failed` (no hard mask succeeds), and for SDR `regenerated` (object redrawn)."""
    success = values["success_rate"]
    values["failed"] = np.where(np.isnan(success), np.nan, success == 0)
    if objective == "sdr":
        with_grey = values["infill_transfer_success_rate"][:, list(infills).index("grey")]
        values["regenerated"] = np.where(
            np.isnan(success), np.nan, (success < 0.5) & (with_grey >= 0.5)
        )


def _subsets(photos: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the images of each table, bool `[N]`; omits tables without images."""
    every = np.ones(len(photos["target"]), bool)
    subsets = {"all": every, "small box": photos["is_small"] == 1}
    return {name: rows for name, rows in subsets.items() if rows.any()}


def _columns(
    is_top_1: np.ndarray,
    values: Mapping[str, np.ndarray],
    infills: Sequence[str],
    transfer_classifiers: Sequence[str],
) -> dict[str, np.ndarray]:
    """Returns one number per image for each metric, float `[N]`; NaN if it is missing."""
    columns = {
        "error": values["error"],
        "official_error": localisation.official_errors(values["error"], is_top_1),
        "found": localisation.max_box_accuracy(values["found"]),
        "smooth_error": values["smooth_error"],
        "smooth_found": localisation.max_box_accuracy(values["smooth_found"]),
        **{name: values[name] for name in ("pointing", "f1", "crop", "variation")},
    }
    for index, infill in enumerate(infills):
        for curve in ("deletion", "insertion"):
            columns[f"{curve}_{infill}"] = curve_area(values[curve][:, index])
        if "infill_transfer_success_rate" in values:
            columns[f"success_{infill}"] = values["infill_transfer_success_rate"][:, index]
    if "classifier_transfer_region_success" in values:
        for index, name in enumerate(transfer_classifiers):
            columns[f"transfer_{name}"] = values["classifier_transfer_success_rate"][:, index]
            region_success = values["classifier_transfer_region_success"][:, index]
            columns[f"region_transfer_{name}"] = region_success
    # Not all methods have these metrics.
    others = ("half_error", "parts", "box_share", *LEARNT_METRICS, *SANITY_METRICS)
    return columns | {name: values[name] for name in others if name in values}


def _control_boxes(photos: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the number of images, mean and interval, by control box and metric."""
    boxes = {}
    for box in BOXES:
        crops = {"error": photos.get(f"{box}_error"), "crop": photos[f"{box}_crop"]}
        known = {name: value for name, value in crops.items() if value is not None}
        boxes[f"box: {box}"] = _intervals(known)
    return boxes


def _intervals(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    found = {}
    for name, values in columns.items():
        finite = values[np.isfinite(values)]
        if len(finite):
            found[name] = {"n": len(finite)} | bootstrap(finite)._asdict()
    return found


def _differences(
    columns: Mapping[str, _Columns], photos: Mapping[str, np.ndarray], learnt: Sequence[Learnt]
) -> list[dict[str, Any]]:
    """Returns paired differences: between runs of the same objective, and to the centre.

    The centre is the method `centre` for metrics of maps, and the centre box for metrics of boxes.
    """
    pairs = [
        (ours.name, theirs.name)
        for ours, theirs in itertools.combinations(learnt, 2)
        if ours.objective == theirs.objective
    ]
    if "centre" in columns["all"]:
        pairs += [(name, "centre") for name in columns["all"] if name != "centre"]
    pairs += [(name, _CENTRE_BOX) for name in columns["all"]]
    rows = []
    for subset, chosen in _subsets(photos).items():
        # The centre box does not depend on the maps, so all errors have the same value.
        box = dict.fromkeys(("error", "half_error", "smooth_error"), photos["centre_error"][chosen])
        box["crop"] = photos["centre_crop"][chosen]
        methods = columns[subset] | {_CENTRE_BOX: box}
        for ours, theirs in pairs:
            for metric in sorted(methods[ours].keys() & methods[theirs].keys()):
                both = np.stack([methods[ours][metric], methods[theirs][metric]])
                both = both[:, np.isfinite(both).all(axis=0)]
                if both.shape[1]:
                    difference = paired_difference(*both)._asdict()
                    about = {"subset": subset, "ours": ours, "theirs": theirs, "metric": metric}
                    rows.append(about | {"n": both.shape[1]} | difference)
    return rows


def _agreement(
    readers: Mapping[str, RecordReader], rows: np.ndarray, learnt: Sequence[Learnt]
) -> list[dict[str, Any]]:
    """Returns the rank agreement of the maps of runs of the same objective."""
    found = []
    for ours, theirs in itertools.combinations(learnt, 2):
        if ours.objective != theirs.objective:
            continue
        blocks = []
        for span in _blocks(rows):
            both = (readers[part.name].read("map", *span) for part in (ours, theirs))
            blocks.append(masks.rank_agreement(*both))
        # The blocks run over all examples from the first row to the last row.
        values = np.concatenate(blocks)[rows - rows[0]]
        values = values[np.isfinite(values)]
        if len(values):
            pair = {"ours": ours.name, "theirs": theirs.name, "n": len(values)}
            found.append(pair | bootstrap(values)._asdict())
    return found


def _restarts(rows: np.ndarray, learnt: Sequence[Learnt]) -> list[dict[str, Any]]:
    """Returns the variance of the cells over runs that differ only in their seed."""
    groups: dict[str, list[Learnt]] = {}
    for part in learnt:
        identity = part.identity()
        identity["run"] = {**identity["run"], "config": {**identity["run"]["config"], "seed": 0}}
        groups.setdefault(json.dumps(identity, sort_keys=True), []).append(part)
    found = []
    for parts in groups.values():
        if len(parts) > 1:
            blocks = [
                masks.restart_variance(np.stack([part.keep_prob(*span) for part in parts]))
                for span in _blocks(rows)
            ]
            values = np.concatenate(blocks)[rows - rows[0]]
            values = values[np.isfinite(values)]
            if len(values):
                names = {"runs": [part.name for part in parts], "n": len(values)}
                found.append(names | bootstrap(values)._asdict())
    return found


def _blocks(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    for start in range(int(rows[0]), int(rows[-1]) + 1, _BLOCK):
        yield start, min(start + _BLOCK, int(rows[-1]) + 1)


def _to_csv(summary: Mapping[str, Any]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["subset", "method", "metric", "n", "mean", "low", "high"])
    for subset, methods in summary["methods"].items():
        for method, metrics in methods.items():
            for metric, numbers in metrics.items():
                writer.writerow([subset, method, metric, *numbers.values()])
    return file.getvalue().encode()


def _images_csv(ids: Sequence[str], photos: Mapping[str, np.ndarray], methods: _Columns) -> bytes:
    """Returns one line per image and method."""
    metrics = list(dict.fromkeys(metric for values in methods.values() for metric in values))
    about = ("label", "target", "prediction", "num_boxes", "is_small")
    unknown = np.full(len(ids), np.nan)
    file = io.BytesIO()
    with io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True) as text:
        writer = csv.writer(text)
        writer.writerow(["id", *about, "method", *metrics])
        for place, name in enumerate(ids):
            facts = [name, *(photos[key][place] for key in about)]
            for method, values in methods.items():
                numbers = [values.get(metric, unknown)[place] for metric in metrics]
                texts = ["" if np.isnan(number) else f"{number:.6g}" for number in numbers]
                writer.writerow([*facts, method, *texts])
        text.flush()
        return file.getvalue()

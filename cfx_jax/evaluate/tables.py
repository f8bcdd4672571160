"""The stores of an evaluation -> tables and plots; no accelerator needed.

Everything is of the images that all methods have measured, so that methods are compared on equal
terms; a mean comes with its 95 % interval over images. `table.json` holds all of it, `table.csv` a
line for each number, `table.md` what people read, `images.csv` a line for each image and method.
"""

import csv
import io
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cfx_jax.evaluate.markdown import LEARNT_METRICS, to_markdown
from cfx_jax.evaluate.measures import Learnt
from cfx_jax.metrics import masks
from cfx_jax.metrics.statistics import bootstrap, paired_difference
from cfx_jax.records import RecordReader, Storage
from cfx_jax.report import pictures

_IMAGES = "images"
_BLOCK = 64  # images whose maps are compared at once
_IMAGES_SHOWN = 8
BOXES = ("whole", "centre", "truth")


def write_tables(
    workdir: str | os.PathLike[str],
    stores: Mapping[str, str],
    judges: Sequence[str],
    learnt: Sequence[Learnt],
) -> str:
    """Writes the tables and plots of an evaluation.

    Args:
        workdir: folder of the evaluation.
        stores: by name of a method, and `images`, the folder of its records.
        judges: names of the generators of the curves.
        learnt: the parts that are learnt masks.

    Returns:
        The tables as Markdown.

    Raises:
        ValueError: there is no image that all methods have measured, or a chunk is damaged.
    """
    readers = {name: RecordReader(folder) for name, folder in stores.items()}
    rows = np.flatnonzero(np.all([reader.complete for reader in readers.values()], axis=0))
    photos = _read(readers.pop(_IMAGES), rows)
    rows, photos = rows[photos["target"] >= 0], _take(photos, photos["target"] >= 0)
    if not len(rows):
        raise ValueError("no image is measured by all methods: let the runs go on, then try again")
    scores = {name: _read(reader, rows) for name, reader in readers.items()}
    for part in learnt:
        _add_failures(scores[part.name], part.objective, judges)
    summary = {
        "num_images": len(rows),
        "top_1": float(np.mean(photos["prediction"] == photos["label"])),
        "methods": _summarise(photos, scores, judges),
        "differences": _differences(photos, scores, judges, learnt),
        "agreement": _agreement(readers, rows, learnt),
        "restart_variance": _restarts(rows, learnt),
    }
    text = to_markdown(summary, judges)
    storage = Storage(workdir)
    storage.write("table.json", json.dumps(summary, indent=2, allow_nan=False).encode())
    storage.write("table.csv", _to_csv(summary))
    storage.write("images.csv", _images_csv(readers, rows, photos, scores, judges))
    storage.write("table.md", text.encode())
    storage.write("curves.png", pictures.encode_png(pictures.draw_curves(scores, judges)))
    shown = [int(row) for row in rows[:_IMAGES_SHOWN]]
    maps = {name: np.concatenate([reader.read("map", row, row + 1) for row in shown])
            for name, reader in readers.items()}  # fmt: skip
    storage.write("maps.png", pictures.encode_png(pictures.draw_maps(maps)))
    return text


def _read(reader: RecordReader, rows: np.ndarray) -> dict[str, np.ndarray]:
    """All of a store but its maps: those are read a block at a time."""
    names = [field.name for field in reader.fields if field.name not in ("id", "map")]
    return {name: reader.read(name)[rows] for name in names}


def _take(values: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    return {name: value[rows] for name, value in values.items()}


def _add_failures(values: dict[str, np.ndarray], objective: str, judges: Sequence[str]) -> None:
    """Adds what follows from the success rates: a mask that never works, an object redrawn."""
    success = values["success_rate"]
    values["failed"] = np.where(np.isnan(success), np.nan, success == 0)
    if objective == "sdr":
        with_grey = values["judged_success_rate"][:, list(judges).index("grey")]
        values["regenerated"] = np.where(
            np.isnan(success), np.nan, (success < 0.5) & (with_grey >= 0.5)
        )


def _subsets(photos: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The images of each table, bool `[N]`; one without images is left out."""
    every = np.ones(len(photos["target"]), bool)
    subsets = {"all": every, "small box": photos["is_small"] == 1}
    return {name: rows for name, rows in subsets.items() if rows.any()}


def _columns(
    photos: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray], judges: Sequence[str]
) -> dict[str, np.ndarray]:
    """One number an image for each metric, float `[N]`, NaN where there is none."""
    is_wrong = (photos["prediction"] != photos["label"]).astype(float)
    columns = {
        "error": values["error"],
        "official_error": np.where(
            np.isnan(values["error"]), np.nan, np.maximum(values["error"], is_wrong)
        ),
        "found": _at_best_share(values["found"]),
        "smooth_error": values["smooth_error"],
        "smooth_found": _at_best_share(values["smooth_found"]),
        **{name: values[name] for name in ("pointing", "f1", "crop", "variation")},
    }
    for index, judge in enumerate(judges):
        for curve in ("deletion", "insertion"):
            points = values[curve][:, index]
            columns[f"{curve}_{judge}"] = (points[:, 1:] + points[:, :-1]).mean(axis=1) / 2
        if "judged_success_rate" in values:
            columns[f"success_{judge}"] = values["judged_success_rate"][:, index]
    return columns | {name: values[name] for name in LEARNT_METRICS if name in values}


def _at_best_share(found: np.ndarray) -> np.ndarray:
    """Boxes found `[N]` of `[N, shares]`, at the threshold that finds most."""
    is_known = ~np.isnan(found).all()
    best = int(np.nanmean(found, axis=0).argmax()) if is_known else 0
    chosen: np.ndarray = found[:, best]
    return chosen


def _summarise(
    photos: Mapping[str, np.ndarray],
    scores: Mapping[str, Mapping[str, np.ndarray]],
    judges: Sequence[str],
) -> dict[str, Any]:
    """By subset, method and metric: number of images, mean and interval."""
    summary: dict[str, Any] = {}
    for subset, rows in _subsets(photos).items():
        methods: dict[str, Any] = {}
        for box in BOXES:
            crops = {"error": photos.get(f"{box}_error"), "crop": photos[f"{box}_crop"]}
            known = {name: value[rows] for name, value in crops.items() if value is not None}
            methods[f"box: {box}"] = _intervals(known)
        for name, values in scores.items():
            columns = _columns(_take(photos, rows), _take(values, rows), judges)
            methods[name] = _intervals(columns)
        summary[subset] = methods
    return summary


def _intervals(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    found = {}
    for name, values in columns.items():
        finite = values[np.isfinite(values)]
        if len(finite):
            found[name] = {"n": len(finite)} | bootstrap(finite)._asdict()
    return found


def _differences(
    photos: Mapping[str, np.ndarray],
    scores: Mapping[str, Mapping[str, np.ndarray]],
    judges: Sequence[str],
    learnt: Sequence[Learnt],
) -> list[dict[str, Any]]:
    """Differences on the same images: between runs of an objective, and to the centre."""
    pairs = [
        (ours.name, theirs.name)
        for ours, theirs in itertools.combinations(learnt, 2)
        if ours.objective == theirs.objective
    ]
    if "centre" in scores:
        pairs += [(name, "centre") for name in scores if name != "centre"]
    rows = []
    for subset, chosen in _subsets(photos).items():
        some = _take(photos, chosen)
        columns = {n: _columns(some, _take(v, chosen), judges) for n, v in scores.items()}
        for ours, theirs in pairs:
            for metric in sorted(columns[ours].keys() & columns[theirs].keys()):
                both = np.stack([columns[ours][metric], columns[theirs][metric]])
                both = both[:, np.isfinite(both).all(axis=0)]
                if both.shape[1]:
                    difference = paired_difference(*both)._asdict()
                    rows.append(
                        {"subset": subset, "ours": ours, "theirs": theirs, "metric": metric}
                        | {"n": both.shape[1]}
                        | difference
                    )
    return rows


def _agreement(
    readers: Mapping[str, RecordReader], rows: np.ndarray, learnt: Sequence[Learnt]
) -> list[dict[str, Any]]:
    """Rank agreement of the maps of runs of the same objective."""
    found = []
    for ours, theirs in itertools.combinations(learnt, 2):
        if ours.objective != theirs.objective:
            continue
        blocks = []
        for span in _blocks(rows):
            both = (readers[part.name].read("map", *span) for part in (ours, theirs))
            blocks.append(masks.rank_agreement(*both))
        # The blocks run over all examples from the first row to the last one.
        values = np.concatenate(blocks)[rows - rows[0]]
        values = values[np.isfinite(values)]
        if len(values):
            pair = {"ours": ours.name, "theirs": theirs.name, "n": len(values)}
            found.append(pair | bootstrap(values)._asdict())
    return found


def _restarts(rows: np.ndarray, learnt: Sequence[Learnt]) -> list[dict[str, Any]]:
    """Variance of the cells over runs that differ in their seed alone."""
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
            names = {"runs": [part.name for part in parts], "n": len(values)}
            found.append(names | bootstrap(values[np.isfinite(values)])._asdict())
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


def _images_csv(
    readers: Mapping[str, RecordReader],
    rows: np.ndarray,
    photos: Mapping[str, np.ndarray],
    scores: Mapping[str, Mapping[str, np.ndarray]],
    judges: Sequence[str],
) -> bytes:
    """A line for each image and method."""
    columns = {name: _columns(photos, values, judges) for name, values in scores.items()}
    metrics = list(dict.fromkeys(m for values in columns.values() for m in values))
    about = ("label", "target", "prediction", "num_boxes", "is_small")
    some_reader = next(iter(readers.values()))
    ids = some_reader.ids()
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["id", *about, "method", *metrics])
    for place, row in enumerate(rows):
        for name, values in columns.items():
            numbers = [values[m][place] if m in values else np.nan for m in metrics]
            texts = ["" if np.isnan(number) else f"{number:.6g}" for number in numbers]
            writer.writerow([ids[row], *(photos[a][place] for a in about), name, *texts])
    return file.getvalue().encode()

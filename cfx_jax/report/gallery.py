"""Writes the gallery of runs: a folder to open in a browser, without accelerator or server.

    index.html              the document, with the first 100 examples for use without JavaScript
    *.js, gallery.css       scripts and styles; nothing is loaded from elsewhere
    data/cfx_jax.txt        marks the folder as ours, before there is an index.html
    data/R/rows-B.js        numbers of run R, thousands of examples per file
    data/R/details-B.js     outlines and plots, 64 examples per file, loaded on demand
    images/R/T/I.webp       the pictures of example I side by side, loaded when they are in view

A document that is opened as a file cannot read other files but can run scripts, so the data are
calls of a function. A run is read and written one unit at a time. index.html is written last, so
that it never names a missing file.
"""

import collections
import dataclasses
import itertools
import json
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cfx_jax.fido import Status, label_result
from cfx_jax.records import Storage
from cfx_jax.report import pictures
from cfx_jax.report._drawing import Drawing, round_for_display
from cfx_jax.report._facts import list_differences, list_facts
from cfx_jax.report.examples import (
    NUMBERS,
    OBJECTIVES,
    ReportUnit,
    class_name,
    describe,
    rather,
    read_units,
)
from cfx_jax.report.folder import PAGE, GalleryFolder
from cfx_jax.runs import CLASSES, Explanations

_logger = logging.getLogger(__name__)
_MEANINGS = {status.name.lower(): status.meaning for status in Status}

_SCALE = "scale.png"
_FOLDER = pathlib.Path(__file__).parent
_SCRIPTS = ("model.js", "pictures.js", "list.js", "detail.js", "gallery.js")
_ASSETS = ("gallery.css", *_SCRIPTS)
_DETAILS = {
    "config": "Config of the run",
    "settings": "Settings of the mode",
    "environment": "Versions and devices",
}
_LISTED = 100
_ROWS_IN_PART = 5000
_DETAILS_IN_PART = 64


def write_gallery(
    workdirs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    max_images: int | None = None,
    check: Callable[[], None] | None = None,
) -> str:
    """Writes the gallery of all results that runs have computed so far.

    Args:
        workdirs: the runs' folders. Examples with the same id are displayed together.
        output: folder to write to, created if missing, on a local disk or in a bucket. An existing
            gallery is replaced.
        max_images: number of computed examples of each run, from the first on, whose pictures are
            drawn; None = all.
        check: function called between files; an exception in it ends the writing, and the previous
            gallery remains.

    Returns:
        Location of `index.html` in `output`.

    Raises:
        FileNotFoundError: there is no run in a folder.
        RecordsError: a manifest or a chunk is damaged, or does not belong to a run.
        ValueError: `max_images` is negative, or `output` is empty.
        FileExistsError: `output` contains files of another program with names of our files.
        OSError: `output` cannot be written.
    """
    if max_images is not None and max_images < 0:
        raise ValueError(f"max_images is {max_images}; expected 0 or more")
    runs = [Explanations(workdir) for workdir in workdirs]
    storage = open_folder(output, check)
    _warn_of_strangers(runs)
    storage.begin()
    most = np.inf if max_images is None else max_images
    written = [
        _write_run(storage, number, run, name, most)
        for number, (run, name) in enumerate(zip(runs, _names(workdirs), strict=True))
    ]
    storage.write(_SCALE, pictures.encode_png(pictures.draw_scale(runs[0].has_pictures)))
    for name in _ASSETS:
        storage.write(name, (_FOLDER / "static" / name).read_bytes())
    html = _template().render(
        runs=written,
        differences=list_differences(runs),
        scripts=_SCRIPTS,
        objectives={
            name: (name.upper(), OBJECTIVES[name])
            for name in OBJECTIVES
            if any(name in run.objectives for run in runs)
        },
        data={"runs": [run.data for run in written]},
    )
    storage.write(PAGE, html.encode("utf-8", "replace"))
    storage.clear()
    return storage.place(PAGE)


def open_folder(
    output: str | os.PathLike[str], check: Callable[[], None] | None = None
) -> GalleryFolder:
    """Inspects the folder of a gallery; nothing is written.

    Args:
        output: folder of the gallery, as in `write_gallery`.
        check: function called between files, as in `write_gallery`.

    Raises:
        FileExistsError: the folder contains files of another program with names of our files.
        ValueError: `output` is empty.
    """
    return GalleryFolder(output, (*_ASSETS, _SCALE), check)


@dataclasses.dataclass
class _Run:
    """The content of the gallery for one run.

    Attributes:
        data: data for the scripts.
        listed: first examples, for the static list.
        counts: number of examples with each status that occurs.
        facts: main settings, as labels and values.
        settings: parts of the manifest, as titles and texts.
    """

    data: dict[str, Any]
    listed: list[dict[str, Any]]
    counts: list[dict[str, Any]]
    facts: list[tuple[str, Any]]
    settings: list[tuple[str, str]]


def _write_run(
    storage: GalleryFolder, number: int, run: Explanations, name: str, most: float
) -> _Run:
    """Writes the data and the pictures of a run."""
    drawing = Drawing(storage, number, run)
    rows = _Parts(storage, f"data/{number}/rows", _ROWS_IN_PART)
    details = _Parts(storage, f"data/{number}/details", _DETAILS_IN_PART)
    counts = {objective: collections.Counter[str]() for objective in run.results}
    listed: list[dict[str, Any]] = []
    named: set[int] = set()
    computed = 0
    for unit in read_units(run):
        drawn = drawing.draw(unit, int(min(max(most - computed, 0), len(unit.indices))))
        for row, index in enumerate(unit.indices):
            picture, detail = drawn.get(row, ("", None))
            if detail is not None:
                details.add(index, {"index": index, **detail})
                for objective in run.results:
                    named.update(number for number, *_ in detail[f"{objective}_top"])
            rows.add(computed, _row(unit, row) | {"pictured": int(bool(picture))})
            if computed < _LISTED:
                listed.append(describe(run, unit, row) | {"index": index, "picture": picture})
            computed += 1
        for objective, results in unit.results.items():
            counts[objective].update(map(run.status_name, results["status"].tolist()))
        named.update(*unit.classes.values())
    rows.close()
    details.close()
    data = {
        "name": name,
        "dataset": (run.manifest.get("dataset") or {}).get("name", "a run"),
        "objectives": [*run.results],
        "statuses": [*run.status_names],
        "classes": {number: class_name(run, number) for number in sorted(named)},
        "rather": rather(run),
        "examples": run.num_examples,
        "computed": computed,
        "pictured": int(min(most, computed)),
        "parts": rows.written,
        "details_in_part": _DETAILS_IN_PART,
        "tiles": drawing.tiles,
        "geometry": drawing.geometry,
        "map_size": drawing.map_size,
        "has_photos": run.has_pictures,
    }
    settings = [
        (title, json.dumps(run.manifest[key], indent=2))
        for key, title in _DETAILS.items()
        if run.manifest.get(key)
    ]
    return _Run(data, listed, _count(run, counts), list_facts(run, computed), settings)


def _warn_of_strangers(runs: Sequence[Explanations]) -> None:
    """Warns of runs that share no example with any other run."""
    if len(runs) == 1:
        return
    ids = [{i for u in run.complete_units for i in run.ids(*run.unit_range(u))} for run in runs]
    counts = collections.Counter(itertools.chain.from_iterable(ids))
    for run, own in zip(runs, ids, strict=True):
        if own and all(counts[name] == 1 for name in own):
            _logger.warning(
                "%s: none of its examples has the id of one of another run", run.location
            )


class _Parts:
    """Writer of rows, in order, to numbered files with `size` indices per file."""

    def __init__(self, storage: Storage, name: str, size: int) -> None:
        self._storage, self._name, self._size = storage, name, size
        self._rows: list[dict[str, Any]] = []
        self._part = 0
        self.written: list[int] = []

    def add(self, index: int, row: dict[str, Any]) -> None:
        """Adds a row; indices must increase."""
        if index // self._size != self._part:
            self.close()
            self._part = index // self._size
        self._rows.append(row)

    def close(self) -> None:
        """Writes the remaining rows."""
        if not self._rows:
            return
        columns = {key: [row[key] for row in self._rows] for key in self._rows[0]}
        name = f"{self._name}-{self._part}"
        content = json.dumps(columns, separators=(",", ":"), allow_nan=False)
        self._storage.write(f"{name}.js", f'cfx_part("{name}",{content})\n'.encode())
        self.written.append(self._part)
        self._rows.clear()


def _row(unit: ReportUnit, row: int) -> dict[str, Any]:
    """Returns the values of an example by which the gallery can search, filter and sort."""
    found: dict[str, Any] = {"index": unit.indices[row], "id": unit.ids[row]}
    found |= {name: unit.classes[name][row] for name in CLASSES}
    for objective, columns in unit.results.items():
        found[f"{objective}_status"] = int(columns["status"][row])
        found |= {f"{objective}_{name}": round_for_display(columns[name][row]) for name in NUMBERS}
    return found


def _count(run: Explanations, counts: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """Returns the meaning of each status that occurs, and its count for each objective."""
    occurring = set().union(*counts.values())
    order = [*run.status_names, *sorted(occurring - {*run.status_names})]
    return [
        {
            "status": status,
            "meaning": _MEANINGS.get(status, ""),
            "numbers": {name: counts[name].get(status, 0) for name in run.results},
        }
        for status in order
        if status in occurring
    ]


def _names(workdirs: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Names runs by the shortest ends of their paths that differ."""
    paths = [pathlib.PurePath(os.path.abspath(workdir)).parts for workdir in workdirs]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == len(names):
            break
    return names


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["label"] = label_result
    return environment.get_template("gallery.html.jinja")

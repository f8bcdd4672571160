"""The page of a run: records -> `report/index.html` and PNG files, no accelerator needed.

The page is static: relative links, inline style, no scripts, no fonts or files from elsewhere. It
opens from the file system and can be copied or served as the folder `report`.

Saliency maps are `[H, W]` in [0, 1], 1 = important, whatever the objective; pictures are uint8
`[H, W, C]`.
"""

import io
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cfx_jax.records import RecordReader
from cfx_jax.records.manifest import read_block_size
from cfx_jax.records.storage import Storage
from cfx_jax.report import pictures

OBJECTIVES = {
    "ssr": ("SSR", "smallest supporting region", "#2f81f7"),
    "sdr": ("SDR", "smallest deletion region", "#d9730d"),
}
_MEANINGS = {
    "ok": "most masks drawn do what was asked of them",
    "misclassified": "the classifier does not predict the target on the original image",
    "not_flipped": "most in-filled images are still classified as the target",
    "not_preserved": "most in-filled images are no longer classified as the target",
    "non_finite": "the computation gave NaN or infinite values",
    "unreadable": "the image could not be decoded",
}
_FACTS = {
    "Classifier": "classifier.name",
    "Generator": "generator.name",
    "Mode": "config.explain.mode",
    "Steps": "settings.num_steps",
    "Masks a step": "settings.num_samples",
    "Seed": "config.seed",
}
_DETAILS = {
    "config": "Config of the run",
    "settings": "Settings of the mode",
    "environment": "Versions and devices",
}
_COLUMNS = ("label", "target", "prediction")
_OBJECTIVE_COLUMNS = (
    "status",
    "log_odds_original",
    "log_odds_infilled",
    "kept_area",
    "success_rate",
    "objective",
)
_PAGE = "report/index.html"
_IMAGES = "report/images"
_NONE = "n/a"
_MAX_SUMMARY_ROWS = 40


def write_report(workdir: str | os.PathLike[str], max_images: int = 100) -> str:
    """Writes the page of a run, of all it has computed so far.

    Args:
        workdir: the run's folder, as `RecordWriter` made it.
        max_images: show pictures of the first so many computed examples; the table has all.

    Returns:
        Place of `report/index.html` in `workdir`.

    Raises:
        FileNotFoundError: there is no run in the folder.
        ValueError: `max_images` is negative, or the manifest does not describe explanations.
        KeyError: a field of an objective is missing from the records.
    """
    if max_images < 0:
        raise ValueError(f"max_images is {max_images}; expected 0 or more")
    run = _Run(RecordReader(workdir))
    storage = Storage(workdir)

    computed = np.flatnonzero(run.complete).tolist()
    shown = computed[:max_images]
    examples = {index: run.example(index) for index in computed}
    written = {index: _write_pictures(storage, run, examples[index]) for index in shown}
    storage.write(
        f"{_IMAGES}/scale.png", pictures.png(pictures.color_scale("image" in run.field_names))
    )
    html = _template().render(
        dataset=run.manifest.get("dataset") or {},
        objectives={name: OBJECTIVES[name] for name in run.objectives},
        facts=_facts(run.manifest),
        settings=[
            (title, json.dumps(run.manifest[key], indent=2))
            for key, title in _DETAILS.items()
            if run.manifest.get(key)
        ],
        examples=examples,
        # Failures first; sorting is stable, so either kind stays in the order of the data.
        listed=sorted(computed, key=lambda index: not examples[index]["failed"]),
        pictures=written,
        num_examples=run.reader.num_examples,
        counts=_counts(run, examples),
    )
    # Last, so that a page never links to pictures that are not there.
    storage.write(_PAGE, html.encode("utf-8", "replace"))
    return storage.place(_PAGE)


def summary(workdir: str | os.PathLike[str]) -> str:
    """Returns the table of a run as text: class, log-odds before and after, area, status.

    Args:
        workdir: the run's folder, as `RecordWriter` made it.

    Returns:
        A line for each computed example and objective, at most 40, and a last one that counts.
    """
    run = _Run(RecordReader(workdir))
    computed = np.flatnonzero(run.complete).tolist()
    rows = [("image", "explained class", "goal", "before", "after", "kept", "status")]
    for index in computed[: _MAX_SUMMARY_ROWS // len(run.objectives)]:
        example = run.example(index)
        for name, result in example["results"].items():
            cells = (result["before"], result["after"], result["kept_area"], result["status"])
            rows.append((example["id"][-24:], example["target"][:32], OBJECTIVES[name][0], *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines.append(f"{len(computed)} of {run.reader.num_examples} images; before, after: ")
    lines[-1] += "probability (log-odds) of the class"
    return "\n".join(lines)


class _Run:
    """The records of a run, its numbers in memory and its pictures on demand."""

    def __init__(self, reader: RecordReader) -> None:
        self.reader, self.manifest = reader, reader.manifest
        self.objectives = list(self.manifest.get("objectives") or ())
        self.status_names = list(self.manifest.get("status_names") or ())
        unknown = [name for name in self.objectives if name not in OBJECTIVES]
        if not self.objectives or not self.status_names or unknown:
            raise ValueError(
                "the manifest of a run of explanations has the lists 'objectives' (of "
                f"{', '.join(OBJECTIVES)}) and 'status_names', got {self.objectives} and "
                f"{self.status_names}"
            )
        self.field_names = {field.name for field in reader.fields}
        self.complete = reader.complete  # first: what is complete now stays so below
        self.ids = reader.ids()
        names = [f"{name}_{column}" for name in self.objectives for column in _OBJECTIVE_COLUMNS]
        self.columns = {name: reader.read(name) for name in (*_COLUMNS, *names)}

    def example(self, index: int) -> dict[str, Any]:
        """Returns what the page says of an example in words and numbers."""
        results = {name: self._result(index, name) for name in self.objectives}
        statuses = [result["status"] for result in results.values()]
        return {
            "index": index,
            "id": self.ids[index],
            "results": results,
            "failed": any(status != "ok" for status in statuses),
            "unreadable": "unreadable" in statuses,
            **{column: self._class_name(index, column) for column in _COLUMNS},
        }

    def _result(self, index: int, objective: str) -> dict[str, Any]:
        values = {
            column: self.columns[f"{objective}_{column}"][index].item()
            for column in _OBJECTIVE_COLUMNS
        }
        code = values["status"]
        known = 0 <= code < len(self.status_names)
        return {
            "status": self.status_names[code] if known else f"unknown status {code}",
            "before": _odds(values["log_odds_original"]),
            "after": _odds(values["log_odds_infilled"]),
            "kept_area": _percent(values["kept_area"]),
            "success_rate": _percent(values["success_rate"]),
            "objective": _number(values["objective"]),
        }

    def _class_name(self, index: int, column: str) -> str:
        number = int(self.columns[column][index])
        names = self.manifest.get("class_names") or ()
        if number < 0:
            return "not known"
        return f"{names[number]} ({number})" if number < len(names) else f"class {number}"

    def value(self, name: str, index: int) -> np.ndarray:
        """Returns an array of one example, read from the disk."""
        return self.reader.read(name, index, index + 1)[0]


def _write_pictures(
    storage: Storage, run: _Run, example: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Writes an example's pictures; returns what the page needs to show them, in order."""
    written: list[dict[str, Any]] = []
    index = example["index"]
    if example["unreadable"]:
        return written

    def add(kind: str, data: bytes, size: tuple[int, ...], caption: str, alt: str) -> None:
        name = f"{index:06d}-{kind}.png"
        storage.write(f"{_IMAGES}/{name}", data)
        height, width = size[:2]
        picture = {"kind": kind, "src": f"images/{name}", "width": width, "height": height}
        written.append(picture | {"caption": caption, "alt": f"{alt}, example {index}"})

    photo = pictures.rgb(run.value("image", index)) if "image" in run.field_names else None
    if photo is not None:
        add("original", pictures.png(photo), photo.shape, "Original", "Original image")
    traces = {}
    block_size = read_block_size(run.manifest)
    for objective in run.objectives:
        label = OBJECTIVES[objective][0]
        traces[objective] = run.value(f"{objective}_trace", index)
        logits = run.value(f"{objective}_mask_logits", index)
        if np.isnan(logits).any():
            continue
        drawn = pictures.draw_saliency(logits, objective, photo, block_size)
        caption = f"{label} saliency"
        add(f"{objective}-saliency", pictures.png(drawn), drawn.shape, caption, f"{caption} map")
        if f"{objective}_infilled" in run.field_names:
            infilled = pictures.rgb(run.value(f"{objective}_infilled", index))
            caption = f"{label} in-filled"
            alt = f"Image in-filled outside the {label} mask"
            add(f"{objective}-infilled", pictures.png(infilled), infilled.shape, caption, alt)
    if any(np.isfinite(trace).any() for trace in traces.values()):
        data, size = _trace_png(traces)
        add("trace", data, size, "Objective at each step", "Line plot of the objective per step")
    return written


def _trace_png(traces: Mapping[str, np.ndarray]) -> tuple[bytes, tuple[int, int]]:
    """Draws the traces `[steps]` of the objectives; returns the PNG and its (height, width)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.2), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for objective, trace in traces.items():
        label, _, color = OBJECTIVES[objective]
        steps = np.arange(1, len(trace) + 1)
        marker = "o" if len(trace) == 1 else None
        finite = np.where(np.isfinite(trace), trace, np.nan)
        axes.plot(steps, finite, color=color, label=label, linewidth=1.5, marker=marker)
    grey = "#808080"  # legible on a light and on a dark page alike
    axes.set_xlabel("step", color=grey)
    axes.set_ylabel("objective", color=grey)
    axes.tick_params(colors=grey, labelsize=8)
    axes.grid(color=grey, alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(grey)
    axes.legend(frameon=False, labelcolor=grey)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", transparent=True)
    width, height = figure.canvas.get_width_height()
    return buffer.getvalue(), (height, width)


def _counts(run: _Run, examples: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns, for each status that occurs, its meaning and how often each objective has it."""
    found = [
        {name: result["status"] for name, result in example["results"].items()}
        for example in examples.values()
    ]
    occurring = {status for statuses in found for status in statuses.values()}
    order = [*run.status_names, *sorted(occurring - set(run.status_names))]
    return [
        {
            "status": status,
            "meaning": _MEANINGS.get(status, ""),
            "numbers": [
                sum(statuses[name] == status for statuses in found) for name in run.objectives
            ],
        }
        for status in order
        if status in occurring
    ]


def _facts(manifest: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Returns the settings worth a line, of those the manifest has."""
    facts = []
    for label, path in _FACTS.items():
        value: Any = manifest
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            facts.append((label, value))
    return facts


def _odds(log_odds: float) -> str:
    if not np.isfinite(log_odds):
        return _NONE
    probability = 1 / (1 + np.exp(-np.clip(log_odds, -700, 700)))
    return f"{_percent(probability)} ({_number(log_odds, signed=True)})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if np.isfinite(share) else _NONE


def _number(value: float, signed: bool = False) -> str:
    return f"{value:{'+' if signed else ''}.2f}" if np.isfinite(value) else _NONE


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja")

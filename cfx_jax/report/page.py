"""The page of a run: records -> `report/index.html` and PNG files, no accelerator needed.

The page is static: relative links, inline style, no scripts, no fonts or files from elsewhere. It
opens from the file system and can be copied or served as the folder `report`.
"""

import collections
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from cfx_jax.records import Storage
from cfx_jax.report import pictures
from cfx_jax.runs.explanations import CLASSES, SCALARS, Explanations

_OBJECTIVES = {"ssr": "smallest supporting region", "sdr": "smallest deletion region"}
_MEANINGS = {
    "ok": "most masks drawn do what was asked of them",
    "misclassified": "the classifier does not predict the target on the original image",
    "not_flipped": "most in-filled images are still classified as the target",
    "not_preserved": "most in-filled images are no longer classified as the target",
    "non_finite": "the computation gave NaN or infinite values",
    "unreadable": "the image could not be decoded",
    "infill_suffices": "in-fills of the whole image are classified as the target, too",
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
        RecordsError: the manifest or a chunk is damaged, or of something else than a run.
        ValueError: `max_images` is negative.
    """
    if max_images < 0:
        raise ValueError(f"max_images is {max_images}; expected 0 or more")
    run, storage = Explanations(workdir), Storage(workdir)
    computed = np.flatnonzero(run.complete).tolist()
    examples = _describe(run, computed)
    written = {
        index: [] if examples[index]["unreadable"] else _write_pictures(storage, run, index)
        for index in computed[:max_images]
    }
    storage.write(
        f"{_IMAGES}/scale.png", pictures.encode_png(pictures.draw_scale(run.has_pictures))
    )
    html = _template().render(
        dataset=run.manifest.get("dataset") or {},
        objectives={name: (name.upper(), _OBJECTIVES[name]) for name in run.objectives},
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
        num_examples=run.num_examples,
        counts=_counts(run, examples),
        rather=_rather(run),
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
    run = Explanations(workdir)
    computed = np.flatnonzero(run.complete).tolist()
    rows = [("image", "explained class", "objective", "before", "after", "kept", "status")]
    for example in _describe(run, computed[: _MAX_SUMMARY_ROWS // len(run.objectives)]).values():
        for name, result in example["results"].items():
            cells = (result["before"], result["after"], result["kept_area"], result["status"])
            rows.append((example["id"][-24:], example["target"][:32], name.upper(), *cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    # Of an image with several classes to explain, each is an example.
    what = "images" if _asked(run, "top_classes") is None else "examples"
    lines.append(f"{len(computed)} of {run.num_examples} {what}; before, after: ")
    lines[-1] += f"probability (log-odds) of the class{_rather(run)}"
    return "\n".join(lines)


def _asked(run: Explanations, name: str) -> Any:
    """Returns what the config of a run says of its question; None where it says nothing."""
    return run.manifest.get("config", {}).get("explain", {}).get(name)


def _rather(run: Explanations) -> str:
    contrast = _asked(run, "contrast")
    return "" if contrast is None else f" rather than {_class_name(run, contrast)}"


def _describe(run: Explanations, indices: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Returns, by index, what the page says of examples in words and numbers."""
    ids, classes = run.ids(), {name: run.read(name).tolist() for name in CLASSES}
    columns = {
        objective: {name: run.read_result(objective, name) for name in ("status", *SCALARS)}
        for objective in run.objectives
    }
    examples = {}
    for index in indices:
        results = {
            objective: _result(run, {name: column[index].item() for name, column in of.items()})
            for objective, of in columns.items()
        }
        statuses = [result["status"] for result in results.values()]
        examples[index] = {
            "id": ids[index],
            "results": results,
            "failed": any(status != "ok" for status in statuses),
            "unreadable": "unreadable" in statuses,
            **{name: _class_name(run, numbers[index]) for name, numbers in classes.items()},
        }
    return examples


def _result(run: Explanations, values: Mapping[str, Any]) -> dict[str, str]:
    return {
        "status": run.status_name(values["status"]),
        "before": _odds(values["log_odds_original"]),
        "after": _odds(values["log_odds_infilled"]),
        "kept_area": _percent(values["kept_area"]),
        "success_rate": _percent(values["success_rate"]),
        "objective": _number(values["objective"]),
    }


def _class_name(run: Explanations, number: int) -> str:
    if number < 0:
        return "not known"
    known = number < len(run.class_names)
    return f"{run.class_names[number]} ({number})" if known else f"class {number}"


def _write_pictures(storage: Storage, run: Explanations, index: int) -> list[dict[str, Any]]:
    """Writes an example's pictures; returns what the page needs to show them, in order."""
    written: list[dict[str, Any]] = []

    def add(kind: str, picture: np.ndarray, caption: str, alt: str) -> None:
        name = f"{index:06d}-{kind}.png"
        storage.write(f"{_IMAGES}/{name}", pictures.encode_png(picture))
        height, width = picture.shape[:2]
        item = {"kind": kind, "src": f"images/{name}", "width": width, "height": height}
        written.append(item | {"caption": caption, "alt": f"{alt}, example {index}"})

    photo = run.read("image", index, index + 1)[0] if run.has_pictures else None
    if photo is not None:
        add("original", photo, "Original", "Original image")
    traces = {}
    for name in run.objectives:
        label = name.upper()
        traces[name] = run.read_result(name, "trace", index, index + 1)[0]
        logits = run.read_result(name, "mask_logits", index, index + 1)[0]
        if np.isnan(logits).any():
            continue
        drawn = pictures.draw_saliency(logits, name, photo, run.mask_law)
        add(f"{name}-saliency", drawn, f"{label} saliency", f"{label} saliency map")
        if run.has_pictures:
            infilled = run.read_result(name, "infilled", index, index + 1)[0]
            alt = f"Image in-filled outside the {label} mask"
            add(f"{name}-infilled", infilled, f"{label} in-filled", alt)
    if any(np.isfinite(trace).any() for trace in traces.values()):
        plot = pictures.draw_traces(traces)
        add("trace", plot, "Objective at each step", "Line plot of the objective per step")
    return written


def _counts(run: Explanations, examples: Mapping[int, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns, for each status that occurs, its meaning and how often each objective has it."""
    counts = {
        name: collections.Counter(
            example["results"][name]["status"] for example in examples.values()
        )
        for name in run.objectives
    }
    occurring = set().union(*counts.values())
    order = [*run.status_names, *sorted(occurring - {*run.status_names})]
    return [
        {
            "status": status,
            "meaning": _MEANINGS.get(status, ""),
            "numbers": [counts[name][status] for name in run.objectives],
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
    return f"{_percent(expit(log_odds))} ({_number(log_odds, signed=True)})"


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

"""The records of a run: the fields stored per example, their values, and their reader."""

import dataclasses
import math
import os
import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cfx_jax.classifiers import Classifier
from cfx_jax.config import Config
from cfx_jax.data import UNKNOWN_LABEL, Examples
from cfx_jax.fido import (
    DIRECTIONS,
    NUM_TOP,
    Explanation,
    Relaxation,
    Settings,
    Status,
    name_results,
)
from cfx_jax.records import Field, RecordReader, RecordsError, encode_ids

CLASSES = types.MappingProxyType(
    {
        "label": "class the data give, -1 where they give none",
        "target": "class explained",
        "prediction": "class predicted on the original image",
    }
)
"""Fields that contain a class index, with their descriptions."""

TOP = types.MappingProxyType(
    {
        "top_classes": "classes likeliest on the original image or in-filled",
        "top_before": "their probabilities on the original image",
        "top_after": "their probabilities, mean over hard masks",
    }
)
"""Fields of the most likely classes, `[5]` each, with their descriptions; see `Explanation`."""

SCALARS = types.MappingProxyType(
    {
        "log_odds_original": "log-odds of the decision on the original image",
        "log_odds_infilled": "log-odds of the decision, mean over hard masks",
        "kept_area": "share of pixels kept",
        "success_rate": "share of hard masks that keep (SSR) or flip (SDR) the prediction",
        "stability": "agreement of the two stages of the search on the region, as IoU",
        "objective": "objective of the learnt distribution",
    }
)
"""Scalar fields of a result, with their descriptions; see `Explanation`."""

# Attributes of an enumeration in the CF (climate and forecast) conventions.
_STATUS = {
    "long_name": "outcome of the explanation",
    "flag_values": [status.value for status in Status],
    "flag_meanings": " ".join(status.name.lower() for status in Status),
}
# The range of float16 ends here; the probability rounds to 0 or 1 long before.
_LARGEST_LOGIT = 6e4
_MAX_NAMED = 4  # Number of fields to name in an error.


def make_fields(config: Config, ids: Sequence[str], size: tuple[int, int]) -> list[Field]:
    """Lists the fields that are stored per example.

    Args:
        config: configuration of the run.
        ids: ids of all examples; the longest sets the number of bytes per id.
        size: size of the images, `(H, W)`.

    Returns:
        The fields of the records.
    """
    settings = config.explain.settings()
    id_width = max(len(text.encode()) for text in ids)
    picture = ((*size, 3), ("y", "x", "channel"))
    cells = ((settings.mask_size, settings.mask_size), ("cell_y", "cell_x"))
    fields = [
        Field("id", "uint8", (id_width,), ("id_byte",), _named("id as UTF-8, 0 beyond its end"))
    ]
    fields += [Field(name, "int32", attributes=_named(what)) for name, what in CLASSES.items()]
    fields.append(Field("digest", "uint64", attributes=_named("hash of the pixels")))
    if config.report.save_images:
        fields.append(Field("image", "uint8", *picture, _named("the photograph, RGB")))
    for objective in config.explain.results:
        fields += [
            Field(f"{objective}_status", "int8", attributes=_STATUS),
            Field(f"{objective}_mask_logits", "float16", *cells, _named("logit of keeping a cell")),
            Field(
                f"{objective}_trace",
                "float32",
                (settings.num_steps,),
                ("step",),
                _named("objective of each step; NaN where none was taken"),
            ),
            *(
                Field(f"{objective}_{name}", "float32", attributes=_named(what))
                for name, what in SCALARS.items()
            ),
        ]
        fields += [
            Field(
                f"{objective}_{name}",
                "int32" if name == "top_classes" else "float32",
                (NUM_TOP,),
                ("rank",),
                _named(what),
            )
            for name, what in TOP.items()
        ]
        if settings.patience:
            fields.append(
                Field(f"{objective}_steps", "int32", attributes=_named("optimiser steps taken"))
            )
        if config.report.save_images:
            filled = _named("the photograph, RGB, in-filled under one of the hard masks")
            fields.append(Field(f"{objective}_infilled", "uint8", *picture, filled))
    return fields


def _named(what: str) -> dict[str, str]:
    return {"long_name": what}


def make_attributes(classifier: Classifier) -> dict[str, Any]:
    """Returns the attributes of a run's records for readers: names of classes and statuses."""
    names = {"status_names": [status.name.lower() for status in Status]}
    return names | ({"class_names": [*classifier.class_names]} if classifier.class_names else {})


def make_values(
    fields: Sequence[Field], examples: Examples, explanations: Mapping[str, Explanation]
) -> dict[str, np.ndarray]:
    """Converts a unit to record fields; an unreadable example has a status but no results.

    Args:
        fields: fields of the records.
        examples: examples of the unit.
        explanations: explanations of the readable examples, by the name of the result.

    Returns:
        Arrays `[n, *field.shape]` by field name.
    """
    n, rows = len(examples.ids), examples.readable
    values = {f.name: np.full((n, *f.shape), _blank(f), f.dtype) for f in fields}
    values["id"] = encode_ids(examples.ids, values["id"].shape[1])
    values["label"] = examples.labels
    values["target"] = np.maximum(examples.targets, UNKNOWN_LABEL)
    values["digest"] = examples.digests
    if "image" in values:
        # A grey picture is stored as RGB, which the gallery displays.
        values["image"][rows] = examples.pixels
    for objective, every in explanations.items():
        values["target"][examples.readable] = every.target
        values["prediction"][examples.readable] = every.prediction
        values[f"{objective}_status"][examples.readable] = every.status
        # Where no alternative was found, there is a status but no region.
        is_found = np.asarray(every.status) != Status.NO_ALTERNATIVE
        rows = examples.readable[is_found]
        result = jax.tree.map(lambda leaf, found=is_found: np.asarray(leaf)[found], every)
        is_taken = np.arange(result.trace.shape[1]) < np.asarray(result.steps)[:, None]
        values[f"{objective}_trace"][rows] = np.where(is_taken, result.trace, np.nan)
        values[f"{objective}_mask_logits"][rows] = np.clip(
            result.mask_logits, -_LARGEST_LOGIT, _LARGEST_LOGIT
        )
        steps = ["steps"] * (f"{objective}_steps" in values)
        for name in (*SCALARS, *TOP, *steps):
            if (value := getattr(result, name)) is not None:
                values[f"{objective}_{name}"][rows] = value
        if f"{objective}_infilled" in values:
            values[f"{objective}_infilled"][rows] = _to_uint8(result.infilled)
    return values


class Explanations(RecordReader):
    """Reader of a run's explanations, also while the run is still writing them.

    Attributes:
        objectives: learnt objectives, in order.
        results: names of the results, in order: each objective, and its alternatives.
        status_names: names of the statuses, by number.
        class_names: names of the classes, by index; empty if the classifier has none.
        settings: settings that the masks were learnt with.
        has_pictures: whether photographs and in-fills are stored.
        has_steps: whether images may have taken fewer steps than the settings allow.

    Example:
        run = Explanations(workdir)
        kept_area = run.read_result("ssr", "kept_area")[run.complete]
    """

    def __init__(self, workdir: str | os.PathLike[str]) -> None:
        """Opens a run's folder.

        Raises:
            FileNotFoundError: there is no run in the folder.
            RecordsError: the manifest or an array is damaged, or the records do not belong to a run
                of explanations.
        """
        super().__init__(workdir)
        self.objectives = tuple(self.manifest.get("objectives") or ())
        self.status_names = tuple(self.manifest.get("status_names") or ())
        self.class_names = tuple(self.manifest.get("class_names") or ())
        names = [field.name for field in self.fields]
        self.has_pictures = "image" in names
        self.has_steps = any(f"{objective}_steps" in names for objective in self.objectives)
        stored: Any = self.manifest.get("settings")
        number = stored.get("alternatives") if isinstance(stored, dict) else None
        number = number if isinstance(number, int) else 1
        self.results = tuple(n for o in self.objectives for n in name_results(o, number))
        if problem := self._problem(names):
            raise RecordsError(
                f"{workdir} contains records of {', '.join(names[:_MAX_NAMED])}, ..., not of "
                f"explanations of this version: {problem}; expected the workdir of python -m "
                "cfx_jax.main: repeat a run of another version in another --workdir"
            )
        self.settings = Settings(**stored | {"relaxation": Relaxation(stored["relaxation"])})

    def read_result(
        self, objective: str, name: str, start: int | None = None, stop: int | None = None
    ) -> np.ndarray:
        """Returns a field of a result for the examples `[start:stop]`.

        Args:
            objective: name of the result, one of `results`.
            name: name of the field: `"status"`, `"mask_logits"`, `"trace"`, `"infilled"`, `"steps"`
                or a key of `SCALARS` or `TOP`.
            start: first example, as in a Python slice.
            stop: end of the range, exclusive, as in a Python slice.

        Returns:
            Values `[stop - start, ...]`; 0 or NaN where an example is not computed.

        Raises:
            KeyError: the run has no such field.
            RecordsError: the data on disk are damaged.
        """
        return self.read(f"{objective}_{name}", start, stop)

    def option(self, name: str) -> Any:
        """Returns a field of the `explain` section of the run's config; None if it is not set."""
        return self.manifest.get("config", {}).get("explain", {}).get(name)

    def status_name(self, code: int) -> str:
        """Returns the name of a status, or a text for an unknown status."""
        known = 0 <= code < len(self.status_names)
        return self.status_names[code] if known else f"unknown status {code}"

    def _problem(self, names: Sequence[str]) -> str:
        if not self.objectives or not set(self.objectives) <= set(DIRECTIONS):
            return f"the manifest's objectives are {[*self.objectives]}, not of {[*DIRECTIONS]}"
        if not self.status_names:
            return "the manifest has no status_names"
        settings = {field.name for field in dataclasses.fields(Settings)}
        if other := settings ^ set(self.manifest.get("settings") or ()):
            return f"the manifest's settings lack, or have in addition, {', '.join(sorted(other))}"
        results = ["status", "mask_logits", "trace", *SCALARS, *TOP]
        results += ["infilled"] * self.has_pictures
        expected = ["id", *CLASSES, "digest"]
        expected += [f"{o}_{name}" for o in self.results for name in results]
        lacking = [name for name in expected if name not in names]
        return f"there is no {lacking[0]}" if lacking else ""


def _blank(field: Field) -> float:
    if field.name.endswith("_status"):
        return Status.UNREADABLE
    if field.dtype.startswith("float"):
        return math.nan
    return -1 if field.dtype.startswith("int") else 0


def _to_uint8(images: np.ndarray | jax.Array) -> np.ndarray:
    return np.round(255.0 * np.nan_to_num(np.clip(images, 0.0, 1.0))).astype(np.uint8)

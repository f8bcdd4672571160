"""The measurements that an evaluation stores: one part for the images, one part per method.

A part declares its fields and measures a unit of examples. NaN marks missing values: an image
without a box has no localisation error.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from cfx_jax.data import Examples
from cfx_jax.evaluate._maps import (
    map_fields,
    measure_maps,
    measure_regions,
    to_unit_range,
)
from cfx_jax.evaluate.scoring import Prediction, Scorer
from cfx_jax.fido import REGION_THRESHOLD, Relaxation, Status
from cfx_jax.metrics import localisation, masks
from cfx_jax.records import Field
from cfx_jax.runs import Explanations, Images

SANITY_CHECKS = ("weights_agreement", "class_agreement")
"""Rank correlations of a map with the maps for shuffled weights and for another class."""

CLASSIFIER_TRANSFER = ("classifier_transfer_success_rate", "classifier_transfer_region_success")
"""Success with other classifiers: of hard masks, and of the region (the thresholded mask)."""

# Border of the centre box, as a share of the side of the image.
_CENTRE_BORDER = 33 / 227


@dataclasses.dataclass(frozen=True)
class EvaluationUnit:
    """The m readable examples of a unit, before they are measured.

    Attributes:
        examples: all examples of the unit, readable or not.
        indices: indices of all examples in the data.
        images: pixels, targets and identities.
        prediction: predictions of the classifier for these images.
        boxes: boxes of each example, float `[k, 4]` in pixels of the fitted image, k >= 0.
    """

    examples: Examples
    indices: range
    images: Images
    prediction: Prediction
    boxes: Sequence[np.ndarray]


class Part(Protocol):
    """One table of an evaluation, with one row per example."""

    @property
    def name(self) -> str:
        """Name in tables."""

    def identity(self) -> dict[str, Any]:
        """Returns JSON values that identify the measurement."""

    def fields(self, scorer: Scorer) -> list[Field]:
        """Returns the fields that are stored for each example."""

    def measure(self, unit: EvaluationUnit, scorer: Scorer) -> dict[str, np.ndarray]:
        """Returns the values of the readable examples, `[m, ...]` by field; m >= 1."""


class Reference:
    """The images without a method: predictions, and boxes that do not depend on the classifier."""

    name = "images"

    def identity(self) -> dict[str, Any]:
        """Returns JSON values that identify the measurement."""
        return {"kind": "images"}

    def fields(self, scorer: Scorer) -> list[Field]:
        """Returns the fields: predictions, and localisation errors and SM of the control boxes."""
        del scorer
        integers = ("label", "target", "prediction", "num_boxes", "is_small")
        floats = ("log_odds", "whole_error", "centre_error")
        crops = ("whole_crop", "centre_crop", "truth_crop")
        return [
            *(Field(name, "int32") for name in integers),
            *(Field(name, "float32") for name in floats + crops),
        ]

    def measure(self, unit: EvaluationUnit, scorer: Scorer) -> dict[str, np.ndarray]:
        """Returns the values of the readable examples."""
        number = len(unit.boxes)
        height, width = unit.images.pixels.shape[1:3]
        whole = localisation.whole_boxes(number, (height, width))
        border = _CENTRE_BORDER * min(height, width)
        centre = localisation.centre_boxes(number, (height, width), border)
        num_boxes = np.array([len(boxes) for boxes in unit.boxes])
        # The largest true box. Without one, use the whole image; its result is set to NaN below.
        truth = np.stack(
            [b[np.argmax(localisation.areas(b))] if len(b) else whole[0] for b in unit.boxes]
        )
        share = localisation.areas(truth) / (height * width)
        crops = [scorer.crop(unit.images, boxes) for boxes in (whole, centre, truth)]
        return {
            "label": unit.examples.labels[unit.examples.readable],
            "target": unit.prediction.target,
            "prediction": unit.prediction.predicted,
            "num_boxes": num_boxes,
            "is_small": (num_boxes == 1) & (share < 0.5),
            "log_odds": unit.prediction.log_odds,
            "whole_error": localisation.localisation_errors(whole, unit.boxes),
            "centre_error": localisation.localisation_errors(centre, unit.boxes),
            "whole_crop": crops[0],
            "centre_crop": crops[1],
            "truth_crop": np.where(num_boxes > 0, crops[2], np.nan),
        }


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A baseline, that is, another saliency method.

    Attributes:
        name: name of the method, a key of `cfx_jax.baselines.METHODS`.
        infill: name of the generator that replaces pixels for the method.
        sanity_images: number of examples, from the first on, whose map is compared with the maps
            for shuffled weights and for another class.
    """

    name: str
    infill: str
    sanity_images: int

    def identity(self) -> dict[str, Any]:
        """Returns JSON values that identify the measurement."""
        return {
            "kind": "baseline",
            "method": self.name,
            "infill": self.infill,
            "sanity_images": self.sanity_images,
        }

    def fields(self, scorer: Scorer) -> list[Field]:
        """Returns the fields: the map, its metrics, and the sanity checks."""
        checks = [Field(name, "float32") for name in SANITY_CHECKS]
        return [*map_fields(scorer), *(checks if self.sanity_images else [])]

    def measure(self, unit: EvaluationUnit, scorer: Scorer) -> dict[str, np.ndarray]:
        """Returns the values of the readable examples."""
        maps = scorer.attribute(self.name, unit.images)
        values = measure_maps(maps, unit.images, unit.boxes, scorer)
        # These maps are not probabilities, so the threshold 1/2 applies to their range, scaled to
        # [0, 1].
        values |= measure_regions(to_unit_range(maps), unit.boxes)
        chosen = unit.indices.start + unit.examples.readable < self.sanity_images
        if chosen.any():
            images = jax.tree.map(lambda array: array[chosen], unit.images)
            others = {
                "weights_agreement": scorer.attribute(self.name, images, shuffled=True),
                "class_agreement": scorer.attribute(
                    self.name, images._replace(targets=unit.prediction.other[chosen])
                ),
            }
            for name, other in others.items():
                values[name] = np.full(len(maps), np.nan)
                values[name][chosen] = masks.rank_agreement(maps[chosen], other)
        return values


@dataclasses.dataclass(frozen=True)
class Learnt:
    """The masks of one objective of a run.

    Attributes:
        run: name of the run.
        records: records of the run.
        objective: objective of the masks, `"ssr"` or `"sdr"`.
    """

    run: str
    records: Explanations
    objective: str

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"{self.objective}_{self.run}"

    def identity(self) -> dict[str, Any]:
        """Returns JSON values that identify the measurement."""
        run = {key: value for key, value in self.records.manifest.items() if key != "environment"}
        return {"kind": "learnt", "objective": self.objective, "run": run}

    def fields(self, scorer: Scorer) -> list[Field]:
        """Returns the fields: the map, its metrics, and the transfer of the mask."""
        by_infill = ((scorer.num_infills,), ("infill",))
        numbers = ("changed_area", "success_rate", "log_odds_infilled", "soft_hard_gap", "entropy")
        by_classifier = ((scorer.num_transfer_classifiers,), ("transfer_classifier",))
        of_classifiers = CLASSIFIER_TRANSFER if scorer.num_transfer_classifiers else ()
        return [
            *map_fields(scorer),
            Field("status", "int32"),
            *(Field(name, "float32") for name in numbers),
            Field("infill_transfer_log_odds", "float32", *by_infill),
            Field("infill_transfer_success_rate", "float32", *by_infill),
            Field("pixel_entropy", "float32"),
            Field("region_success", "float32"),
            *(Field(name, "float32", *by_classifier) for name in of_classifiers),
        ]

    def measure(self, unit: EvaluationUnit, scorer: Scorer) -> dict[str, np.ndarray]:
        """Returns the values of the readable examples."""
        is_explained = self.is_explained(unit)
        cells = self._read("mask_logits", unit).astype(np.float32)
        cells[~is_explained] = 0.0
        probability = special.expit(cells)
        law = self.records.settings.mask_law
        cells = np.asarray(law.cells(jnp.asarray(cells)))
        size = unit.images.pixels.shape[1:3]
        maps = scorer.saliency(cells, self.objective, size, law)
        kept = self._read("kept_area", unit)
        values = {
            **measure_maps(maps, unit.images, unit.boxes, scorer),
            **measure_regions(maps, unit.boxes),
            **self._measure_transfer(cells, maps, unit, scorer),
            # The area that the objective penalises: pixels that SSR keeps and SDR drops.
            "changed_area": kept if self.objective == "ssr" else 1.0 - kept,
            "success_rate": self._read("success_rate", unit),
            "log_odds_infilled": self._read("log_odds_infilled", unit),
            # The objective with hard masks minus that of the last step, with relaxed masks.
            "soft_hard_gap": self._read("objective", unit) - self._last_of_trace(unit),
            "entropy": masks.posterior_entropy(probability),
            "pixel_entropy": masks.posterior_entropy(scorer.keep(cells, size, law)),
        }
        for value in values.values():
            value[~is_explained] = np.nan
        return values | {"status": self._read("status", unit)}

    def _last_of_trace(self, unit: EvaluationUnit) -> np.ndarray:
        trace = self._read("trace", unit)
        if not self.records.has_steps:
            return trace[:, -1]
        # Examples that are not explained have no steps; their value is set to NaN by the caller.
        last = np.maximum(self._read("steps", unit), 1) - 1
        return np.take_along_axis(trace, last[:, None], axis=1)[:, 0]

    def _measure_transfer(
        self, cells: np.ndarray, maps: np.ndarray, unit: EvaluationUnit, scorer: Scorer
    ) -> dict[str, np.ndarray]:
        """Measures the transfer of hard masks and of regions to other in-fills and classifiers."""
        law = self.records.settings.mask_law
        log_odds, success_rate = scorer.transfer(unit.images, cells, self.objective, law)
        regions = scorer.region_success(unit.images, maps > REGION_THRESHOLD, self.objective)
        found = {
            "infill_transfer_log_odds": log_odds,
            "infill_transfer_success_rate": success_rate,
            "region_success": regions[:, 0],
        }
        if scorer.num_transfer_classifiers:
            by_classifier = scorer.transfer_to_classifiers(unit.images, cells, self.objective, law)
            found |= {
                "classifier_transfer_success_rate": by_classifier,
                "classifier_transfer_region_success": regions[:, 1:],
            }
        return found

    def keep_prob(self, start: int, stop: int) -> np.ndarray:
        """Reads the keep probabilities `[stop - start, h, w]`; NaN if there is no mask."""
        logits = self.records.read_result(self.objective, "mask_logits", start, stop)
        return np.asarray(special.expit(logits.astype(np.float32)))

    def is_explained(self, unit: EvaluationUnit) -> np.ndarray:
        """Returns whether each readable example has a mask, bool `[m]`."""
        status = self._read("status", unit)
        explained: np.ndarray = (status != Status.NON_FINITE) & (status != Status.UNREADABLE)
        return explained

    def _read(self, name: str, unit: EvaluationUnit) -> np.ndarray:
        rows = unit.examples.readable
        span = unit.indices.start, unit.indices.stop
        stored = self.records.read_result(self.objective, name, *span)
        return np.asarray(stored[rows])


@dataclasses.dataclass(frozen=True)
class Joint:
    """The combined masks of both objectives of a run: pixels that SSR keeps and SDR drops.

    Formula: `sqrt(keep_ssr * (1 - keep_sdr))` for each cell. Source: Korsch et al., 2023, who learn
    both masks together; here they are learnt separately.
    """

    ssr: Learnt
    sdr: Learnt

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"joint_{self.ssr.run}"

    def identity(self) -> dict[str, Any]:
        """Returns JSON values that identify the measurement."""
        return {"kind": "joint", "run": self.ssr.identity()["run"]}

    def fields(self, scorer: Scorer) -> list[Field]:
        """Returns the fields: the map and its metrics."""
        return map_fields(scorer)

    def measure(self, unit: EvaluationUnit, scorer: Scorer) -> dict[str, np.ndarray]:
        """Returns the values of the readable examples."""
        rows = unit.examples.readable
        span = unit.indices.start, unit.indices.stop
        kept, not_dropped = (part.keep_prob(*span)[rows] for part in (self.ssr, self.sdr))
        is_explained = self.ssr.is_explained(unit) & self.sdr.is_explained(unit)
        cells = np.sqrt(kept * (1.0 - not_dropped)).astype(np.float32)
        cells[~is_explained] = 0.0
        size = (unit.images.pixels.shape[1], unit.images.pixels.shape[2])
        # The cells are the mask itself, not its logits.
        law = dataclasses.replace(
            self.ssr.records.settings.mask_law,
            relaxation=Relaxation.DETERMINISTIC,
            smooth_scale=0.0,
            sharpness=1.0,
        )
        maps = scorer.saliency(cells, "ssr", size, law)
        values = measure_maps(maps, unit.images, unit.boxes, scorer)
        values |= measure_regions(maps, unit.boxes)
        for value in values.values():
            value[~is_explained] = np.nan
        return values

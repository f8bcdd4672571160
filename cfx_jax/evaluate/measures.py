"""What an evaluation keeps of each image: one part for the images, one for each method.

A part names its fields and measures a unit of examples. NaN stands for what cannot be measured: an
image without a box has no localisation error.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from scipy import special

from cfx_jax.data.loader import Examples
from cfx_jax.evaluate.scoring import Prediction, Scorer
from cfx_jax.fido.explanation import Status
from cfx_jax.fido.masks import Relaxation
from cfx_jax.metrics import localisation, masks
from cfx_jax.records import Field
from cfx_jax.runs.explanations import Explanations
from cfx_jax.runs.solver import Images

SHARES = tuple(round(0.05 * step, 2) for step in range(20))
"""Thresholds of MaxBoxAcc, as shares of the range of a map."""

SANITY_CHECKS = ("weights_agreement", "class_agreement")
"""Rank agreement of a map with that of shuffled weights, and of another class."""

# Border of the centre box, as a share of the side of the image.
_CENTRE_BORDER = 33 / 227
# Cells along each side of the maps that are kept, to draw them and to compare methods.
_MAP_SIZE = 56


@dataclasses.dataclass(frozen=True)
class Unit:
    """The m readable examples of a unit, before they are measured.

    Attributes:
        examples: all of the unit.
        indices: of all of them, in the data.
        images: pixels, targets and identities.
        prediction: what the classifier makes of them.
        boxes: of each, float `[k, 4]` in pixels of the fitted image, k >= 0.
    """

    examples: Examples
    indices: range
    images: Images
    prediction: Prediction
    boxes: Sequence[np.ndarray]


class Part(Protocol):
    """One table of an evaluation, a row an example."""

    @property
    def name(self) -> str:
        """As tables show it."""

    def identity(self) -> dict[str, Any]:
        """JSON values that tell what is measured."""

    def fields(self, scorer: Scorer) -> list[Field]:
        """What is kept of each example."""

    def measure(self, unit: Unit, scorer: Scorer) -> dict[str, np.ndarray]:
        """Values of the readable examples, by field `[m, ...]`; m >= 1."""


class Reference:
    """The images without a method: what the classifier makes of them, and boxes that ask none."""

    name = "images"

    def identity(self) -> dict[str, Any]:
        """JSON values that tell what is measured."""
        return {"kind": "images"}

    def fields(self, scorer: Scorer) -> list[Field]:
        """The classifier's answers, and localisation errors and SM of control boxes."""
        del scorer
        integers = ("label", "target", "prediction", "num_boxes", "is_small")
        floats = ("log_odds", "whole_error", "centre_error")
        crops = ("whole_crop", "centre_crop", "truth_crop")
        return [
            *(Field(name, "int32") for name in integers),
            *(Field(name, "float32") for name in floats + crops),
        ]

    def measure(self, unit: Unit, scorer: Scorer) -> dict[str, np.ndarray]:
        """Values of the readable examples."""
        number = len(unit.boxes)
        height, width = unit.images.pixels.shape[1:3]
        whole = localisation.whole_boxes(number, (height, width))
        border = _CENTRE_BORDER * min(height, width)
        centre = localisation.centre_boxes(number, (height, width), border)
        num_boxes = np.array([len(boxes) for boxes in unit.boxes])
        # Of several the largest; of none the whole image, which is then not kept.
        truth = np.stack([_largest(b) if len(b) else whole[0] for b in unit.boxes])
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
    """Another method.

    Attributes:
        name: of `cfx_jax.baselines.METHODS`.
        infill: name of the generator that replaces pixels for it.
        sanity_images: examples, the first ones, whose map is compared with those of shuffled
            weights and of another class.
    """

    name: str
    infill: str
    sanity_images: int

    def identity(self) -> dict[str, Any]:
        """JSON values that tell what is measured."""
        about = {"kind": "baseline", "method": self.name, "infill": self.infill}
        return about | ({"sanity_images": self.sanity_images} if self.sanity_images else {})

    def fields(self, scorer: Scorer) -> list[Field]:
        """The map and how good it is, and how alike those are that should not be."""
        checks = [Field(name, "float32") for name in SANITY_CHECKS]
        return [*_map_fields(scorer), *(checks if self.sanity_images else [])]

    def measure(self, unit: Unit, scorer: Scorer) -> dict[str, np.ndarray]:
        """Values of the readable examples."""
        maps = scorer.attribute(self.name, unit.images)
        values = _measure_maps(maps, unit, scorer)
        chosen = unit.indices.start + unit.examples.readable < self.sanity_images
        if chosen.any():
            images = Images(*(array[chosen] for array in unit.images))
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
        records: of the run.
        objective: `"ssr"` or `"sdr"`.
    """

    run: str
    records: Explanations
    objective: str

    @property
    def name(self) -> str:
        """As tables show it."""
        return f"{self.objective}_{self.run}"

    def identity(self) -> dict[str, Any]:
        """JSON values that tell what is measured."""
        run = {key: value for key, value in self.records.manifest.items() if key != "environment"}
        return {"kind": "learnt", "objective": self.objective, "run": run}

    def fields(self, scorer: Scorer) -> list[Field]:
        """The map and how good it is, and what the mask does with other in-fills."""
        judged = ((scorer.num_judges,), ("judge",))
        numbers = ("changed_area", "success_rate", "log_odds_infilled", "soft_hard_gap", "entropy")
        return [
            *_map_fields(scorer),
            Field("status", "int32"),
            *(Field(name, "float32") for name in numbers),
            Field("judged_log_odds", "float32", *judged),
            Field("judged_success_rate", "float32", *judged),
        ]

    def measure(self, unit: Unit, scorer: Scorer) -> dict[str, np.ndarray]:
        """Values of the readable examples."""
        is_explained = self.is_explained(unit)
        cells = self._read("mask_logits", unit).astype(np.float32)
        cells[~is_explained] = 0.0
        probability = special.expit(cells)
        law = self.records.mask_law
        cells = np.asarray(law.cells(jnp.asarray(cells)))
        height, width = unit.images.pixels.shape[1:3]
        maps = scorer.saliency(cells, self.objective, (height, width), law)
        log_odds, success_rate = scorer.transfer(unit.images, cells, self.objective, law)
        kept = self._read("kept_area", unit)
        values = _measure_maps(maps, unit, scorer) | {
            # What costs: what SSR keeps and SDR drops.
            "changed_area": kept if self.objective == "ssr" else 1.0 - kept,
            "success_rate": self._read("success_rate", unit),
            "log_odds_infilled": self._read("log_odds_infilled", unit),
            # The objective with hard masks less that of the last step, with relaxed ones.
            "soft_hard_gap": self._read("objective", unit) - self._read("trace", unit)[:, -1],
            "entropy": masks.posterior_entropy(probability),
            "judged_log_odds": log_odds,
            "judged_success_rate": success_rate,
        }
        for value in values.values():
            value[~is_explained] = np.nan
        return values | {"status": self._read("status", unit)}

    def keep_prob(self, start: int, stop: int) -> np.ndarray:
        """Reads the masks `[stop - start, h, w]` of examples; NaN where there is none."""
        logits = self.records.read_result(self.objective, "mask_logits", start, stop)
        return np.asarray(special.expit(logits.astype(np.float32)))

    def is_explained(self, unit: Unit) -> np.ndarray:
        """Which readable examples have a mask, bool `[m]`."""
        status = self._read("status", unit)
        explained: np.ndarray = (status != Status.NON_FINITE) & (status != Status.UNREADABLE)
        return explained

    def _read(self, name: str, unit: Unit) -> np.ndarray:
        rows = unit.examples.readable
        span = unit.indices.start, unit.indices.stop
        stored = self.records.read_result(self.objective, name, *span)
        return np.asarray(stored[rows])


@dataclasses.dataclass(frozen=True)
class Joint:
    """Where the masks of both objectives of a run meet: what SSR keeps and SDR drops.

    Formula: `sqrt(keep_ssr * (1 - keep_sdr))` for each cell. Source: Korsch et al., 2023, who learn
    both together; here each was learnt alone.
    """

    ssr: Learnt
    sdr: Learnt

    @property
    def name(self) -> str:
        """As tables show it."""
        return f"joint_{self.ssr.run}"

    def identity(self) -> dict[str, Any]:
        """JSON values that tell what is measured."""
        return {"kind": "joint", "run": self.ssr.identity()["run"]}

    def fields(self, scorer: Scorer) -> list[Field]:
        """The map and how good it is."""
        return _map_fields(scorer)

    def measure(self, unit: Unit, scorer: Scorer) -> dict[str, np.ndarray]:
        """Values of the readable examples."""
        rows = unit.examples.readable
        span = unit.indices.start, unit.indices.stop
        kept, not_dropped = (part.keep_prob(*span)[rows] for part in (self.ssr, self.sdr))
        is_explained = self.ssr.is_explained(unit) & self.sdr.is_explained(unit)
        cells = np.sqrt(kept * (1.0 - not_dropped)).astype(np.float32)
        cells[~is_explained] = 0.0
        size = (unit.images.pixels.shape[1], unit.images.pixels.shape[2])
        # The cells are the mask itself, not its logits.
        law = dataclasses.replace(self.ssr.records.mask_law, relaxation=Relaxation.DETERMINISTIC)
        maps = scorer.saliency(cells, "ssr", size, law)
        values = _measure_maps(maps, unit, scorer)
        for value in values.values():
            value[~is_explained] = np.nan
        return values


def _map_fields(scorer: Scorer) -> list[Field]:
    numbers = ("error", "pointing", "f1", "crop", "variation")
    curve = ((scorer.num_judges, scorer.curve_steps + 1), ("judge", "point"))
    return [
        Field("map", "float16", (_MAP_SIZE, _MAP_SIZE), ("map_y", "map_x")),
        Field("box", "float32", (4,), ("corner",)),
        *(Field(name, "float32") for name in numbers),
        Field("smooth_error", "float32"),
        Field("found", "float32", (len(SHARES),), ("share",)),
        Field("smooth_found", "float32", (len(SHARES),), ("share",)),
        Field("deletion", "float32", *curve),
        Field("insertion", "float32", *curve),
    ]


def _measure_maps(maps: np.ndarray, unit: Unit, scorer: Scorer) -> dict[str, np.ndarray]:
    """Measures maps `[m, H, W]`, whatever they come from."""
    # Between 0 and 1, whatever the method: what is measured must not depend on its scale.
    low = maps.min(axis=(1, 2), keepdims=True)
    maps = (maps - low) / np.maximum(np.ptp(maps, axis=(1, 2), keepdims=True), 1e-12)
    boxes = localisation.tight_boxes(localisation.above_mean(maps))
    scores = scorer.score(unit.images, maps, boxes)
    smoothed = localisation.smooth(maps)
    smooth_boxes = localisation.tight_boxes(localisation.above_mean(smoothed))
    return {
        "map": _shrink(maps),
        "box": boxes,
        "error": localisation.localisation_errors(boxes, unit.boxes),
        "pointing": localisation.pointing_hits(maps, unit.boxes),
        "f1": localisation.f1_scores(maps, unit.boxes),
        "crop": np.asarray(scores.crop),
        "variation": masks.total_variation(maps),
        "found": localisation.found_at_shares(maps, unit.boxes, SHARES),
        "smooth_error": localisation.localisation_errors(smooth_boxes, unit.boxes),
        "smooth_found": localisation.found_at_shares(smoothed, unit.boxes, SHARES),
        "deletion": np.asarray(scores.deletion),
        "insertion": np.asarray(scores.insertion),
    }


def _largest(boxes: np.ndarray) -> np.ndarray:
    largest: np.ndarray = boxes[np.argmax(localisation.areas(boxes))]
    return largest


def _shrink(maps: np.ndarray) -> np.ndarray:
    """Averages maps `[m, H, W]` over `_MAP_SIZE` x `_MAP_SIZE` cells; repeats pixels if smaller."""
    rows, columns = (
        (np.arange(_MAP_SIZE) * length // _MAP_SIZE).astype(int) for length in maps.shape[1:]
    )
    if min(maps.shape[1:]) < _MAP_SIZE:
        return maps[:, rows][:, :, columns]
    sums = np.add.reduceat(np.add.reduceat(maps, rows, axis=1), columns, axis=2)
    counts = np.diff(rows, append=maps.shape[1])[:, None] * np.diff(columns, append=maps.shape[2])
    return np.asarray(sums / counts)

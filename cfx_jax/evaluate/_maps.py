"""The fields stored for a saliency map of any method, and their values."""

from collections.abc import Sequence

import numpy as np

from cfx_jax.evaluate.scoring import Scorer
from cfx_jax.fido import REGION_THRESHOLD
from cfx_jax.metrics import localisation, masks
from cfx_jax.records import Field
from cfx_jax.runs import Images

SHARES = tuple(round(0.05 * step, 2) for step in range(20))
"""Thresholds of MaxBoxAcc, as shares of the range of a map."""

# Cells along each side of the stored maps, which are drawn and compared between methods.
_MAP_SIZE = 56


def map_fields(scorer: Scorer) -> list[Field]:
    """Lists the fields stored for a map."""
    numbers = ("error", "pointing", "f1", "crop", "variation")
    regions = ("half_error", "parts", "box_share")
    curve = ((scorer.num_infills, scorer.curve_steps + 1), ("infill", "point"))
    return [
        Field("map", "float16", (_MAP_SIZE, _MAP_SIZE), ("map_y", "map_x")),
        Field("box", "float32", (4,), ("corner",)),
        *(Field(name, "float32") for name in numbers),
        Field("smooth_error", "float32"),
        Field("found", "float32", (len(SHARES),), ("share",)),
        Field("smooth_found", "float32", (len(SHARES),), ("share",)),
        Field("deletion", "float32", *curve),
        Field("insertion", "float32", *curve),
        *(Field(name, "float32") for name in regions),
    ]


def measure_maps(
    maps: np.ndarray, images: Images, boxes: Sequence[np.ndarray], scorer: Scorer
) -> dict[str, np.ndarray]:
    """Measures maps of any scale.

    Args:
        maps: saliency maps, float `[m, H, W]`, larger = more important.
        images: images of the maps.
        boxes: true boxes of each image, float `[k, 4]`.
        scorer: scorer, which runs the classifier.

    Returns:
        Arrays `[m, ...]` by field of `map_fields`, except those of `measure_regions`.
    """
    maps = to_unit_range(maps)
    around = localisation.tight_boxes(localisation.above_mean(maps))
    scores = scorer.score(images, maps, around)
    smoothed = localisation.smooth(maps)
    smooth_boxes = localisation.tight_boxes(localisation.above_mean(smoothed))
    return {
        "map": _shrink(maps),
        "box": around,
        "error": localisation.localisation_errors(around, boxes),
        "pointing": localisation.pointing_hits(maps, boxes),
        "f1": localisation.f1_scores(maps, boxes),
        "crop": np.asarray(scores.crop),
        "variation": masks.total_variation(maps),
        "found": localisation.found_at_shares(maps, boxes, SHARES),
        "smooth_error": localisation.localisation_errors(smooth_boxes, boxes),
        "smooth_found": localisation.found_at_shares(smoothed, boxes, SHARES),
        "deletion": np.asarray(scores.deletion),
        "insertion": np.asarray(scores.insertion),
    }


def measure_regions(maps: np.ndarray, boxes: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Measures the regions above the fixed threshold `REGION_THRESHOLD`, which is not tuned.

    Args:
        maps: saliency maps, float `[m, H, W]` in [0, 1]: probabilities, or the result of
            `to_unit_range`.
        boxes: true boxes of each image, float `[k, 4]`.

    Returns:
        Arrays `[m]` by field.
    """
    regions = maps > REGION_THRESHOLD
    around = localisation.tight_boxes(regions)
    return {
        "half_error": localisation.localisation_errors(around, boxes),
        "parts": masks.count_parts(regions),
        "box_share": localisation.box_shares(maps, boxes),
    }


def to_unit_range(maps: np.ndarray) -> np.ndarray:
    """Scales each map `[m, H, W]` to [0, 1], so that measurements do not depend on its scale."""
    low = maps.min(axis=(1, 2), keepdims=True)
    scaled: np.ndarray = (maps - low) / np.maximum(np.ptp(maps, axis=(1, 2), keepdims=True), 1e-12)
    return scaled


def _shrink(maps: np.ndarray) -> np.ndarray:
    """Averages maps `[m, H, W]` over `_MAP_SIZE` x `_MAP_SIZE` cells, or enlarges smaller maps."""
    rows, columns = (
        (np.arange(_MAP_SIZE) * length // _MAP_SIZE).astype(int) for length in maps.shape[1:]
    )
    if min(maps.shape[1:]) < _MAP_SIZE:
        return maps[:, rows][:, :, columns]
    sums = np.add.reduceat(np.add.reduceat(maps, rows, axis=1), columns, axis=2)
    counts = np.diff(rows, append=maps.shape[1])[:, None] * np.diff(columns, append=maps.shape[2])
    return np.asarray(sums / counts)

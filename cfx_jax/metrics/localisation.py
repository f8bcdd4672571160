"""Does the map lie on the object: boxes drawn from maps, against boxes drawn by people.

Maps are float `[N, H, W]`, larger = more important. Boxes are float `x0 y0 x1 y1` in pixels of the
map, edges, so that the first pixel is `0 0 1 1`. An image has any number of true boxes `[k, 4]`;
without one there is nothing to measure, and its number is NaN. Published numbers differ in their
protocol, so compare methods with these functions, not with numbers from elsewhere.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

HIT = 0.5
"""The overlap beyond which a box is taken as found."""
SMOOTHING = 0.1
"""Standard deviation of the Gaussian of `smooth`, as a share of the shorter side of a map."""


def above_mean(maps: np.ndarray) -> np.ndarray:
    """Cuts each map at its own mean, bool `[N, H, W]`.

    Source: Dabkowski and Gal, NeurIPS 2017, for maps without a threshold of their own.

    Args:
        maps: float `[N, H, W]`.

    Returns:
        True where a map is above its mean; nowhere for a flat map.
    """
    # The mean of equal numbers may be rounded to less than they are.
    is_flat = np.ptp(maps, axis=(1, 2), keepdims=True) == 0
    return (maps > maps.mean(axis=(1, 2), keepdims=True)) & ~is_flat


def above_share(maps: np.ndarray, share: float) -> np.ndarray:
    """Cuts each map at a share of its range, bool `[N, H, W]`.

    Args:
        maps: float `[N, H, W]`.
        share: in [0, 1); 0 is the lowest value of a map, 1 the highest.

    Returns:
        True where a map is above `low + share * (high - low)`; nowhere for a flat map.
    """
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return maps > low + share * (high - low)


def smooth(maps: np.ndarray) -> np.ndarray:
    """Blurs each map, so that scattered pixels of one object become one part of a region.

    Masks with a cell every few pixels, and slopes, are important in grains: their largest connected
    part is one grain. Differs from the published protocols, which take maps as they are, so it is
    measured beside them, for all methods alike. Cut at its mean a blurred map draws small objects
    too large.

    Args:
        maps: float `[N, H, W]`.

    Returns:
        float `[N, H, W]`, each map after a Gaussian of `SMOOTHING` of its shorter side; what lies
        outside mirrors what lies inside.
    """
    sigma = SMOOTHING * min(maps.shape[1:])
    blurred: np.ndarray = ndimage.gaussian_filter(maps, (0.0, sigma, sigma))
    return blurred


def tight_boxes(regions: np.ndarray) -> np.ndarray:
    """Draws the tight box around the largest connected part of each region.

    Pixels that share an edge are connected. Of parts of equal size the first one is taken.

    Args:
        regions: bool `[N, H, W]`.

    Returns:
        float `[N, 4]`; `0 0 0 0` for an empty region.

    Example:
        >>> region = np.zeros((1, 5, 5), bool)
        >>> region[0, 1:3, 1:5] = region[0, 4, 0] = True
        >>> tight_boxes(region).tolist()
        [[1.0, 1.0, 5.0, 3.0]]
    """
    boxes = np.zeros((len(regions), 4))
    for box, region in zip(boxes, regions, strict=True):
        parts, count = ndimage.label(region)
        if count:
            largest = np.argmax(np.bincount(parts.ravel())[1:])
            rows, columns = ndimage.find_objects(parts)[largest]
            box[:] = columns.start, rows.start, columns.stop, rows.stop
    return boxes


def best_overlap(boxes: np.ndarray, truths: Sequence[np.ndarray]) -> np.ndarray:
    """Measures intersection over union with the true box that fits best.

    True boxes are not clamped to the picture: what a crop has cut off them counts in their area.

    Args:
        boxes: float `[N, 4]`, one an image.
        truths: of each image, float `[k, 4]`.

    Returns:
        float `[N]` in [0, 1], higher is better; NaN where k = 0.

    Raises:
        ValueError: true boxes have another shape.
    """
    overlaps = np.full(len(boxes), np.nan)
    for index, true in _boxed(truths):
        box = boxes[index]
        sides = np.minimum(box[2:], true[:, 2:]) - np.maximum(box[:2], true[:, :2])
        shared = np.prod(np.clip(sides, 0, None), axis=1)
        union = areas(box[None])[0] + areas(true) - shared
        overlaps[index] = np.max(shared / union)
    return overlaps


def localisation_errors(boxes: np.ndarray, truths: Sequence[np.ndarray]) -> np.ndarray:
    """LE: 1 where a box overlaps no true box by more than half.

    Source: weakly supervised localisation, ILSVRC; its mean is in [0, 1], lower is better.

    Args:
        boxes: float `[N, 4]`, as `tight_boxes` draws them around what is left of a cut map.
        truths: of each image, float `[k, 4]`.

    Returns:
        float `[N]` of zeros and ones; NaN where k = 0.

    Raises:
        ValueError: true boxes have another shape.
    """
    overlaps = best_overlap(boxes, truths)
    return np.where(np.isnan(overlaps), np.nan, overlaps <= HIT)


def official_errors(errors: np.ndarray, is_top_1: np.ndarray) -> np.ndarray:
    """OM: 1 where the box is not found or the classifier is wrong; lower is better.

    Args:
        errors: float `[N]`, as of `localisation_errors`.
        is_top_1: float `[N]`, 1 where the label is predicted, 0 where another class is, NaN where
            there is no label.

    Returns:
        float `[N]` of zeros and ones; NaN where one of the two is.
    """
    worse: np.ndarray = np.maximum(errors, 1.0 - is_top_1)
    return worse


def found_at_shares(
    maps: np.ndarray, truths: Sequence[np.ndarray], shares: Sequence[float]
) -> np.ndarray:
    """Returns whether the box of each map is found at each threshold, see `max_box_accuracy`.

    Args:
        maps: float `[N, H, W]`.
        truths: of each image, float `[k, 4]`.
        shares: S thresholds to try, as of `above_share`.

    Returns:
        float `[N, S]` of zeros and ones; NaN where k = 0.

    Raises:
        ValueError: true boxes have another shape.
    """
    found = np.full((len(maps), len(shares)), np.nan)
    for index, true in _boxed(truths):
        regions = np.concatenate([above_share(maps[index][None], share) for share in shares])
        found[index] = 1.0 - localisation_errors(tight_boxes(regions), [true] * len(shares))
    return found


def max_box_accuracy(found: np.ndarray) -> np.ndarray:
    """MaxBoxAcc: found boxes at the threshold that suits the method best.

    Source: Choe et al., CVPR 2020; a method is not judged by a threshold chosen for another one.
    Differs from it in that the box is that of the largest part that is connected by edges.

    Args:
        found: float `[N, S]`, as of `found_at_shares`.

    Returns:
        float `[N]`, the column of the highest mean; the higher it is, the better.
    """
    is_known = ~np.isnan(found).all(axis=1)
    best = int(found[is_known].mean(axis=0).argmax()) if is_known.any() else 0
    chosen: np.ndarray = found[:, best].copy()  # Not a view that holds all of them.
    return chosen


def pointing_hits(maps: np.ndarray, truths: Sequence[np.ndarray]) -> np.ndarray:
    """Pointing game: 1 where the highest pixel of a map lies in a true box; higher is better.

    Source: Zhang et al., ECCV 2016. Differs from it in that the box has no margin around it. Of
    pixels of equal height the middle one counts, so that a flat map points at the centre.

    Args:
        maps: float `[N, H, W]`.
        truths: of each image, float `[k, 4]`.

    Returns:
        float `[N]` of zeros and ones; NaN where k = 0.

    Raises:
        ValueError: true boxes have another shape.
    """
    hits = np.full(len(maps), np.nan)
    for index, true in _boxed(truths):
        rows, columns = np.nonzero(maps[index] == maps[index].max())
        x, y = columns.mean() + 0.5, rows.mean() + 0.5
        inside = (true[:, 0] <= x) & (x <= true[:, 2]) & (true[:, 1] <= y) & (y <= true[:, 3])
        hits[index] = inside.any()
    return hits


def f1_scores(maps: np.ndarray, truths: Sequence[np.ndarray]) -> np.ndarray:
    """F1 of a map as it is, uncut, with the true box that fits best; higher is better.

    Formula: with the box as a map b of zeros and ones, precision `sum(m b) / sum(m)`, recall
    `sum(m b) / sum(b)`, and twice their product over their sum.

    Args:
        maps: float `[N, H, W]` in [0, 1].
        truths: of each image, float `[k, 4]`.

    Returns:
        float `[N]` in [0, 1]; 0 for a map of zeros, NaN where k = 0.

    Raises:
        ValueError: true boxes have another shape.
    """
    scores = np.full(len(maps), np.nan)
    for index, true in _boxed(truths):
        inside = np.stack([_draw(box, maps.shape[1:]) for box in true])
        shared = (maps[index] * inside).sum(axis=(1, 2))
        total = maps[index].sum() + inside.sum(axis=(1, 2))
        scores[index] = np.max(2 * shared / np.where(total > 0, total, 1.0))
    return scores


def box_shares(maps: np.ndarray, truths: Sequence[np.ndarray]) -> np.ndarray:
    """Measures the share of the mass of a map that lies in the true boxes; higher is better.

    Formula: with the union of the boxes as a map b of how much of each pixel they cover,
    `sum(m b) / sum(m)`. A flat map has the share of the picture that the boxes cover.

    Args:
        maps: float `[N, H, W]`, at least 0.
        truths: of each image, float `[k, 4]`.

    Returns:
        float `[N]` in [0, 1]; NaN where k = 0, or where a map is 0 everywhere.

    Raises:
        ValueError: true boxes have another shape.
    """
    shares = np.full(len(maps), np.nan)
    for index, true in _boxed(truths):
        union = np.max([_draw(box, maps.shape[1:]) for box in true], axis=0)
        if (mass := maps[index].sum(dtype=float)) > 0:
            shares[index] = (maps[index] * union).sum(dtype=float) / mass
    return shares


def whole_boxes(number: int, size: tuple[int, int]) -> np.ndarray:
    """A control: the whole picture as the box of each image, float `[number, 4]`."""
    height, width = size
    return np.tile([0.0, 0.0, width, height], (number, 1))


def centre_boxes(number: int, size: tuple[int, int], border: float) -> np.ndarray:
    """A control: the picture without a border of so many pixels, float `[number, 4]`."""
    height, width = size
    return np.tile([border, border, width - border, height - border], (number, 1))


def areas(boxes: np.ndarray) -> np.ndarray:
    """Returns the areas of boxes `[k, 4]` in square pixels, unclamped, float `[k]`."""
    found: np.ndarray = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return found


def _draw(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """How much of each pixel a box covers, float `[H, W]` in [0, 1]."""
    x, y = (
        np.clip(np.minimum(np.arange(length) + 1, high) - np.maximum(np.arange(length), low), 0, 1)
        for length, low, high in ((size[1], box[0], box[2]), (size[0], box[1], box[3]))
    )
    return y[:, None] * x[None, :]


def _boxed(truths: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the true boxes of the images that have any, and which images those are."""
    for index, true in enumerate(truths):
        if np.ndim(true) != 2 or np.shape(true)[1] != 4:
            raise ValueError(f"truths[{index}] has shape {np.shape(true)}; expected boxes [k, 4]")
        if len(true):
            yield index, true

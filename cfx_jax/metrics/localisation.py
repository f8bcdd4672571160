"""Localisation metrics: boxes derived from maps, compared with annotated boxes.

Maps are float `[N, H, W]`, larger = more important. Boxes are float `x0 y0 x1 y1` in pixels of the
map; the coordinates are those of edges, so that the first pixel is `0 0 1 1`. An image has any
number of true boxes `[k, 4]`; without a true box its metrics are NaN. Published numbers differ in
their protocol, so compare methods with these functions, not with numbers from elsewhere.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

HIT = 0.5
"""Intersection over union above which a box counts as found."""
SMOOTHING = 0.1
"""Standard deviation of the Gaussian of `smooth`, as a share of the shorter side of a map."""


def above_mean(maps: np.ndarray) -> np.ndarray:
    """Thresholds each map at its mean, bool `[N, H, W]`.

    Source: Dabkowski and Gal, NeurIPS 2017, for maps without a natural threshold.

    Args:
        maps: saliency maps, float `[N, H, W]`.

    Returns:
        True where a map is above its mean; nowhere for a flat map.
    """
    # The mean of equal numbers may be rounded to a smaller number.
    is_flat = np.ptp(maps, axis=(1, 2), keepdims=True) == 0
    return (maps > maps.mean(axis=(1, 2), keepdims=True)) & ~is_flat


def above_share(maps: np.ndarray, share: float) -> np.ndarray:
    """Thresholds each map at a share of its range, bool `[N, H, W]`.

    Args:
        maps: saliency maps, float `[N, H, W]`.
        share: threshold in [0, 1); 0 is the lowest value of a map, 1 the highest.

    Returns:
        True where a map is above `low + share * (high - low)`; nowhere for a flat map.
    """
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return maps > low + share * (high - low)


def smooth(maps: np.ndarray) -> np.ndarray:
    """Blurs each map, so that scattered pixels of one object become one part of a region.

    Fine masks and gradients are granular, and their largest connected part is a single grain.
    Differs from the published protocols, which use unblurred maps; it is therefore reported in
    addition to them, for all methods alike. Thresholded at its mean, a blurred map makes small
    objects too large.

    Args:
        maps: saliency maps, float `[N, H, W]`.

    Returns:
        Blurred maps, float `[N, H, W]`. The standard deviation of the Gaussian is `SMOOTHING` of
        the shorter side of a map; the border is reflected.
    """
    sigma = SMOOTHING * min(maps.shape[1:])
    blurred: np.ndarray = ndimage.gaussian_filter(maps, (0.0, sigma, sigma))
    return blurred


def tight_boxes(regions: np.ndarray) -> np.ndarray:
    """Returns the tight box around the largest connected part of each region.

    Pixels that share an edge are connected. The first of several largest parts is used.

    Args:
        regions: regions, bool `[N, H, W]`.

    Returns:
        Boxes, float `[N, 4]`; `0 0 0 0` for an empty region.

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
    """Computes intersection over union with the best-matching true box.

    True boxes are not clipped to the image: their area includes parts outside of a crop.

    Args:
        boxes: one box per image, float `[N, 4]`.
        truths: true boxes of each image, float `[k, 4]`.

    Returns:
        Overlap, float `[N]` in [0, 1]; higher is better; NaN where k = 0.

    Raises:
        ValueError: true boxes have another shape.
    """
    overlaps = np.full(len(boxes), np.nan)
    for index, true in _iterate_boxed(truths):
        box = boxes[index]
        sides = np.minimum(box[2:], true[:, 2:]) - np.maximum(box[:2], true[:, :2])
        shared = np.prod(np.clip(sides, 0, None), axis=1)
        union = areas(box[None])[0] + areas(true) - shared
        overlaps[index] = np.max(shared / union)
    return overlaps


def localisation_errors(boxes: np.ndarray, truths: Sequence[np.ndarray]) -> np.ndarray:
    """Computes LE, the localisation error: 1 unless a box overlaps a true box by more than half.

    Source: weakly supervised localisation, ILSVRC. Lower is better.

    Args:
        boxes: one box per image, float `[N, 4]`, such as the result of `tight_boxes`.
        truths: true boxes of each image, float `[k, 4]`.

    Returns:
        Errors, float `[N]` of zeros and ones; NaN where k = 0.

    Raises:
        ValueError: true boxes have another shape.
    """
    overlaps = best_overlap(boxes, truths)
    return np.where(np.isnan(overlaps), np.nan, overlaps <= HIT)


def official_errors(errors: np.ndarray, is_top_1: np.ndarray) -> np.ndarray:
    """Computes OM, the official metric: 1 where the box is not found or the prediction is wrong.

    Lower is better.

    Args:
        errors: result of `localisation_errors`, float `[N]`.
        is_top_1: correctness of the prediction, float `[N]`: 1 where the label is predicted, 0
            where another class is predicted, NaN without a label.

    Returns:
        Errors, float `[N]` of zeros and ones; NaN where an input is NaN.
    """
    worse: np.ndarray = np.maximum(errors, 1.0 - is_top_1)
    return worse


def found_at_shares(
    maps: np.ndarray, truths: Sequence[np.ndarray], shares: Sequence[float]
) -> np.ndarray:
    """Returns whether the box of each map is found at each threshold, see `max_box_accuracy`.

    Args:
        maps: saliency maps, float `[N, H, W]`.
        truths: true boxes of each image, float `[k, 4]`.
        shares: S thresholds, each a `share` of `above_share`.

    Returns:
        Hits, float `[N, S]` of zeros and ones; NaN where k = 0.

    Raises:
        ValueError: true boxes have another shape.
    """
    found = np.full((len(maps), len(shares)), np.nan)
    for index, true in _iterate_boxed(truths):
        regions = np.concatenate([above_share(maps[index][None], share) for share in shares])
        found[index] = 1.0 - localisation_errors(tight_boxes(regions), [true] * len(shares))
    return found


def max_box_accuracy(found: np.ndarray) -> np.ndarray:
    """Computes MaxBoxAcc: whether boxes are found at the best threshold of the method.

    Higher is better. Source: Choe et al., CVPR 2020; no method is evaluated at a threshold chosen
    for another method. Differs from it in that the box surrounds the largest part that is connected
    by edges.

    Args:
        found: result of `found_at_shares`, float `[N, S]`.

    Returns:
        Hits, float `[N]`, the column with the highest mean.
    """
    is_known = ~np.isnan(found).all(axis=1)
    best = int(np.argmax(found[is_known].mean(axis=0))) if is_known.any() else 0
    column: np.ndarray = found[:, best].copy()  # A copy, so that the whole array can be freed.
    return column


def pointing_hits(maps: np.ndarray, truths: Sequence[np.ndarray]) -> np.ndarray:
    """Computes the pointing game: 1 where the maximum of a map is in a true box.

    Higher is better. Source: Zhang et al., ECCV 2016. Differs from it in that there is no margin
    around the box. If several pixels have the maximum, their mean position counts, so that a flat
    map points at the centre.

    Args:
        maps: saliency maps, float `[N, H, W]`.
        truths: true boxes of each image, float `[k, 4]`.

    Returns:
        Hits, float `[N]` of zeros and ones; NaN where k = 0.

    Raises:
        ValueError: true boxes have another shape.
    """
    hits = np.full(len(maps), np.nan)
    for index, true in _iterate_boxed(truths):
        rows, columns = np.nonzero(maps[index] == maps[index].max())
        x, y = columns.mean() + 0.5, rows.mean() + 0.5
        inside = (true[:, 0] <= x) & (x <= true[:, 2]) & (true[:, 1] <= y) & (y <= true[:, 3])
        hits[index] = inside.any()
    return hits


def f1_scores(maps: np.ndarray, truths: Sequence[np.ndarray]) -> np.ndarray:
    """Computes the F1 score of a map, without a threshold, with the best-matching true box.

    Higher is better. Formula: with the box as a map b of zeros and ones, precision
    `sum(m b) / sum(m)`, recall `sum(m b) / sum(b)`, and twice their product over their sum.

    Args:
        maps: saliency maps, float `[N, H, W]` in [0, 1].
        truths: true boxes of each image, float `[k, 4]`.

    Returns:
        Scores, float `[N]` in [0, 1]; 0 for a map of zeros, NaN where k = 0.

    Raises:
        ValueError: true boxes have another shape.
    """
    scores = np.full(len(maps), np.nan)
    for index, true in _iterate_boxed(truths):
        inside = np.stack([_rasterise(box, maps.shape[1:]) for box in true])
        shared = (maps[index] * inside).sum(axis=(1, 2))
        total = maps[index].sum() + inside.sum(axis=(1, 2))
        scores[index] = np.max(2 * shared / np.where(total > 0, total, 1.0))
    return scores


def box_shares(maps: np.ndarray, truths: Sequence[np.ndarray]) -> np.ndarray:
    """Computes the share of the mass of a map inside the true boxes; higher is better.

    Formula: `sum(m b) / sum(m)`, where b is the share of each pixel that the union of the boxes
    covers. For a flat map this is the share of the image that the boxes cover.

    Args:
        maps: saliency maps, float `[N, H, W]`, at least 0.
        truths: true boxes of each image, float `[k, 4]`.

    Returns:
        Shares, float `[N]` in [0, 1]; NaN where k = 0, or where a map is 0 everywhere.

    Raises:
        ValueError: true boxes have another shape.
    """
    shares = np.full(len(maps), np.nan)
    for index, true in _iterate_boxed(truths):
        union = np.max([_rasterise(box, maps.shape[1:]) for box in true], axis=0)
        if (mass := maps[index].sum(dtype=float)) > 0:
            shares[index] = (maps[index] * union).sum(dtype=float) / mass
    return shares


def whole_boxes(number: int, size: tuple[int, int]) -> np.ndarray:
    """Returns the whole image as the box of each image, float `[number, 4]`: a control."""
    height, width = size
    return np.tile([0.0, 0.0, width, height], (number, 1))


def centre_boxes(number: int, size: tuple[int, int], border: float) -> np.ndarray:
    """Returns the image without a border of `border` pixels, float `[number, 4]`: a control."""
    height, width = size
    return np.tile([border, border, width - border, height - border], (number, 1))


def areas(boxes: np.ndarray) -> np.ndarray:
    """Returns the areas of boxes `[k, 4]` in square pixels, not clipped, float `[k]`."""
    products: np.ndarray = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return products


def _rasterise(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the share of each pixel that a box covers, float `[H, W]` in [0, 1]."""
    x, y = (
        np.clip(np.minimum(np.arange(length) + 1, high) - np.maximum(np.arange(length), low), 0, 1)
        for length, low, high in ((size[1], box[0], box[2]), (size[0], box[1], box[3]))
    )
    return y[:, None] * x[None, :]


def _iterate_boxed(truths: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the index and the true boxes of each image that has a true box."""
    for index, true in enumerate(truths):
        if np.ndim(true) != 2 or np.shape(true)[1] != 4:
            raise ValueError(f"truths[{index}] has shape {np.shape(true)}; expected boxes [k, 4]")
        if len(true):
            yield index, true

"""Metrics of masks that need no model: entropy, parts, variation, and agreement of two maps.

Masks are keep probabilities `[N, h, w]` in [0, 1]; maps `[N, H, W]`, larger = more important.
"""

import numpy as np
from scipy import ndimage, special


def posterior_entropy(keep_prob: np.ndarray) -> np.ndarray:
    """Computes the mean entropy of the cells or pixels of a mask; lower = more certain.

    Formula: mean of `-p log2 p - (1 - p) log2 (1 - p)`, in bits per cell. Hard masks are drawn at
    the pixels, and pixels between two certain cells can be uncertain.

    Args:
        keep_prob: keep probability of cells or pixels, float `[N, h, w]`.

    Returns:
        Entropy, float `[N]` in [0, 1].
    """
    p = np.asarray(keep_prob, float)
    entropy: np.ndarray = (special.entr(p) + special.entr(1.0 - p)).mean(axis=(1, 2)) / np.log(2.0)
    return entropy


def count_parts(regions: np.ndarray) -> np.ndarray:
    """Counts the connected parts of each region; 1 = compact, many = scattered.

    Pixels that share an edge are connected, as for `localisation.tight_boxes`.

    Args:
        regions: regions, bool `[N, H, W]`.

    Returns:
        Counts, float `[N]`, whole numbers; 0 for an empty region.

    Example:
        >>> count_parts(np.eye(3, dtype=bool)[None]).tolist()
        [3.0]
    """
    return np.array([ndimage.label(region)[1] for region in regions], float)


def total_variation(maps: np.ndarray) -> np.ndarray:
    """Computes the mean absolute difference of neighbouring pixels; lower = smoother.

    Source: the penalty of BBMP (Fong and Vedaldi, 2017) with exponent 1, as a mean so that maps of
    different sizes can be compared. It is 1/3 for uniform noise in [0, 1], and 1 for a checkerboard
    of zeros and ones.

    Args:
        maps: saliency maps, float `[N, H, W]`.

    Returns:
        Variation, float `[N]`, at least 0.
    """
    maps = np.asarray(maps, float)
    differences = [np.abs(np.diff(maps, axis=axis)).reshape(len(maps), -1) for axis in (1, 2)]
    variation: np.ndarray = np.concatenate(differences, axis=1).mean(axis=1)
    return variation


def rank_agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Computes the Spearman correlation of two maps per image.

    1 = the same order of pixels, 0 = unrelated. The scales of the maps do not matter. For example,
    it compares the maps of one method with two generators.

    Args:
        first: first map of each image, float `[N, H, W]`.
        second: second map of each image, float `[N, H, W]`.

    Returns:
        Correlation, float `[N]` in [-1, 1]; NaN where one of the maps is flat.

    Raises:
        ValueError: the shapes differ.
    """
    # Imported here, because it takes as long to import as JAX, and every run and report imports
    # this module.
    from scipy import stats

    if np.shape(first) != np.shape(second):
        raise ValueError(
            f"the maps have shapes {np.shape(first)} and {np.shape(second)}; expected the same"
        )
    # From SciPy 1.18 on, ranks keep the type of the maps; in half precision their squares overflow.
    flat = [np.asarray(maps, float).reshape(len(maps), -1) for maps in (first, second)]
    ranks = [stats.rankdata(maps, axis=1) for maps in flat]
    centred = [rank - rank.mean(axis=1, keepdims=True) for rank in ranks]
    lengths = [np.sqrt(np.square(rank).sum(axis=1)) for rank in centred]
    with np.errstate(invalid="ignore"):
        agreement: np.ndarray = (centred[0] * centred[1]).sum(axis=1) / (lengths[0] * lengths[1])
    return agreement


def restart_variance(keep_prob: np.ndarray) -> np.ndarray:
    """Computes the variance of cells over restarts, averaged over the cells; lower is better.

    Args:
        keep_prob: R >= 2 masks of each image, learnt with different seeds, float `[R, N, h, w]`.

    Returns:
        Variance, float `[N]`, unbiased over restarts; at most 1/2, and at most 1/4 for many
        restarts.

    Raises:
        ValueError: there is only one restart.
    """
    if len(keep_prob) < 2:
        raise ValueError(
            f"keep_prob has shape {np.shape(keep_prob)}; expected two restarts or more"
        )
    variance: np.ndarray = np.var(np.asarray(keep_prob, float), axis=0, ddof=1).mean(axis=(1, 2))
    return variance

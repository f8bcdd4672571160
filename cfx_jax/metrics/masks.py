"""What a mask is like by itself, and how much two of them agree: no model is asked.

Masks are keep probabilities `[N, h, w]` in [0, 1]; maps `[N, H, W]`, larger = more important.
"""

import numpy as np
from scipy import ndimage, special


def posterior_entropy(keep_prob: np.ndarray) -> np.ndarray:
    """How undecided a mask is: the mean entropy of its cells or pixels; lower = more decided.

    Formula: mean of `-p log2 p - (1 - p) log2 (1 - p)`, in bits a cell. Hard masks are drawn at the
    pixels, where cells that are decided leave what lies between them undecided.

    Args:
        keep_prob: float `[N, h, w]`, of cells or of pixels.

    Returns:
        float `[N]` in [0, 1].
    """
    p = np.asarray(keep_prob, float)
    entropy: np.ndarray = (special.entr(p) + special.entr(1.0 - p)).mean(axis=(1, 2)) / np.log(2.0)
    return entropy


def count_parts(regions: np.ndarray) -> np.ndarray:
    """In how many pieces a region lies: its connected parts; 1 = a region, many = a scatter.

    Pixels that share an edge are connected, as for `localisation.tight_boxes`.

    Args:
        regions: bool `[N, H, W]`.

    Returns:
        float `[N]`, whole numbers; 0 for an empty region.

    Example:
        >>> count_parts(np.eye(3, dtype=bool)[None]).tolist()
        [3.0]
    """
    return np.array([ndimage.label(region)[1] for region in regions], float)


def total_variation(maps: np.ndarray) -> np.ndarray:
    """How ragged a map is: the mean absolute difference of neighbours; lower = smoother.

    Source: the penalty of BBMP (Fong and Vedaldi, 2017) with exponent 1, as a mean so that sizes
    compare. A map of noise in [0, 1] has 1/3, a checkerboard of zeros and ones 1.

    Args:
        maps: float `[N, H, W]`.

    Returns:
        float `[N]`, at least 0.
    """
    maps = np.asarray(maps, float)
    differences = [np.abs(np.diff(maps, axis=axis)).reshape(len(maps), -1) for axis in (1, 2)]
    variation: np.ndarray = np.concatenate(differences, axis=1).mean(axis=1)
    return variation


def rank_agreement(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Spearman correlation of two maps of an image: 1 = the same order of pixels, 0 = unrelated.

    Whatever the scales of the maps, for example of one method with two generators.

    Args:
        ours: float `[N, H, W]`.
        theirs: float `[N, H, W]`.

    Returns:
        float `[N]` in [-1, 1]; NaN where one of the maps is flat.

    Raises:
        ValueError: the shapes differ.
    """
    # Not above: it takes as long to import as JAX, and every run and report imports this module.
    from scipy import stats

    if np.shape(ours) != np.shape(theirs):
        raise ValueError(
            f"the maps have shapes {np.shape(ours)} and {np.shape(theirs)}; expected the same"
        )
    # Ranks keep the type of the maps from SciPy 1.18 on: in half precision their squares overflow.
    flat = [np.asarray(maps, float).reshape(len(maps), -1) for maps in (ours, theirs)]
    ranks = [stats.rankdata(maps, axis=1) for maps in flat]
    centred = [rank - rank.mean(axis=1, keepdims=True) for rank in ranks]
    lengths = [np.sqrt(np.square(rank).sum(axis=1)) for rank in centred]
    with np.errstate(invalid="ignore"):
        agreement: np.ndarray = (centred[0] * centred[1]).sum(axis=1) / (lengths[0] * lengths[1])
    return agreement


def restart_variance(keep_prob: np.ndarray) -> np.ndarray:
    """How much a mask depends on chance: the variance of its cells over restarts, averaged.

    Args:
        keep_prob: float `[R, N, h, w]`, R >= 2 masks of each image from other seeds.

    Returns:
        float `[N]`, unbiased over restarts, at most 1/2 and 1/4 over many; lower is better.

    Raises:
        ValueError: there is only one restart.
    """
    if len(keep_prob) < 2:
        raise ValueError(
            f"keep_prob has shape {np.shape(keep_prob)}; expected two restarts or more"
        )
    variance: np.ndarray = np.var(np.asarray(keep_prob, float), axis=0, ddof=1).mean(axis=(1, 2))
    return variance

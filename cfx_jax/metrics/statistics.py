"""Statistics of one number per image: means with their uncertainty."""

from typing import NamedTuple

import numpy as np

# Number of values that the bootstrap draws per batch, so that memory does not grow with the images.
_BATCH_NUMBERS = 2**20


class Interval(NamedTuple):
    """A mean and its 95 % confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: np.ndarray, num_draws: int = 2000, seed: int = 0) -> Interval:
    """Computes the mean over images and its 95 % interval by the percentile bootstrap.

    Source: Efron 1979. The same seed draws the same images for every method, so that methods are
    compared on equal terms.

    Args:
        values: one finite number per image, float `[N]`.
        num_draws: number of resamples, each of N images drawn with replacement.
        seed: random seed of the draws.

    Returns:
        An `Interval`.

    Raises:
        ValueError: there is no value, or a value is not finite.

    Example:
        >>> str(bootstrap(np.ones(10)))
        '1.000 [1.000, 1.000]'
    """
    values = np.asarray(values, float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(
            f"values have shape {values.shape}, {np.isfinite(values).sum()} of them finite; "
            "expected one finite number per image: leave out images that failed, for all methods"
        )
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, mean, mean)
    from scipy import stats  # Takes half a second to import.

    result = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=num_draws,
        batch=max(1, _BATCH_NUMBERS // len(values)),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Interval(mean, float(low), float(high))


def paired_difference(
    first: np.ndarray, second: np.ndarray, num_draws: int = 2000, seed: int = 0
) -> Interval:
    """Computes the mean of `first - second` on the same images, and its 95 % interval.

    The methods differ if the interval excludes 0. Differences between images that affect both
    methods cancel.

    Args:
        first: one number per image, float `[N]`.
        second: numbers of the same images in the same order, float `[N]`.
        num_draws: number of resamples, as in `bootstrap`.
        seed: random seed of the draws, as in `bootstrap`.

    Returns:
        An `Interval`.

    Raises:
        ValueError: the lengths differ, or a value is not finite.
    """
    if np.shape(first) != np.shape(second):
        raise ValueError(
            f"first has shape {np.shape(first)}, second {np.shape(second)}; expected the same "
            "images"
        )
    return bootstrap(np.asarray(first, float) - np.asarray(second, float), num_draws, seed)

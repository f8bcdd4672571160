"""From one number an image to what can be said of a method: means with their uncertainty."""

from typing import NamedTuple

import numpy as np

_NUMBERS_AT_ONCE = 2**20  # drawn by the bootstrap, so that memory does not grow with the images


class Interval(NamedTuple):
    """A mean and the interval that holds it with 95 % confidence."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: np.ndarray, num_draws: int = 2000, seed: int = 0) -> Interval:
    """Returns the mean of images and its 95 % interval, by drawing images anew.

    Source: the percentile bootstrap, Efron 1979. The same seed draws the same images for every
    method, so methods are compared on equal terms.

    Args:
        values: float `[N]`, finite, one an image.
        num_draws: how often N images are drawn with replacement.
        seed: of the draws.

    Returns:
        An `Interval`.

    Raises:
        ValueError: there is no value, or one is not finite.

    Example:
        >>> str(bootstrap(np.ones(10)))
        '1.000 [1.000, 1.000]'
    """
    values = np.asarray(values, float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(
            f"values have shape {values.shape}, {np.isfinite(values).sum()} of them finite; "
            "expected one finite number an image: leave out those that failed, for all methods"
        )
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, mean, mean)
    from scipy import stats  # Takes half a second to import.

    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=num_draws,
        batch=max(1, _NUMBERS_AT_ONCE // len(values)),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return Interval(mean, float(low), float(high))


def paired_difference(
    ours: np.ndarray, theirs: np.ndarray, num_draws: int = 2000, seed: int = 0
) -> Interval:
    """Returns the mean of `ours - theirs` on the same images, and its 95 % interval.

    An interval without 0 says that the methods differ; the images that are hard for both drop out.

    Args:
        ours: float `[N]`, one an image.
        theirs: float `[N]`, of the same images in the same order.
        num_draws: as in `bootstrap`.
        seed: as in `bootstrap`.

    Returns:
        An `Interval`.

    Raises:
        ValueError: the lengths differ, or a value is not finite.
    """
    if np.shape(ours) != np.shape(theirs):
        raise ValueError(
            f"ours has shape {np.shape(ours)}, theirs {np.shape(theirs)}; expected the same images"
        )
    return bootstrap(np.asarray(ours, float) - np.asarray(theirs, float), num_draws, seed)

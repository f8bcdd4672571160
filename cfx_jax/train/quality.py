"""Measures in-fills against the original images: PSNR, L1 and SSIM on fixed kinds of masks."""

from typing import NamedTuple

import jax
import numpy as np
from skimage.metrics import structural_similarity

from cfx_jax.generators import Generator, infill
from cfx_jax.runs import parallel
from cfx_jax.train import masks

_ROWS = 8  # Number of images filled together.


class Quality(NamedTuple):
    """Quality of in-fills, as means over images.

    Attributes:
        psnr: `-10 log10(mean squared error inside the hole)`, in dB, for values in [0, 1].
        l1: mean absolute error inside the hole.
        ssim: structural similarity (Wang et al. 2004, as scikit-image computes it) of the whole
            image with its hole filled.
    """

    psnr: float
    l1: float
    ssim: float


def heldout_masks(num_images: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Returns the fixed masks on which in-fills are evaluated.

    Args:
        num_images: number n of masks of each kind.
        size: image size `(H, W)`.

    Returns:
        Masks by kind, float32 `[n, H, W, 1]`, 1 = keep.
    """
    drawn = {}
    for number, kind in enumerate(masks.HELDOUT_KINDS):
        keys = jax.random.split(jax.random.key(number), num_images)
        draw = jax.jit(
            lambda keys, kind=kind: jax.lax.map(
                lambda key: masks.sample_heldout(key, kind, size), keys
            )
        )
        drawn[kind] = np.asarray(draw(keys))
    return drawn


def fill_images(generator: Generator, images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fills the holes of many images, a few at a time.

    Args:
        generator: generator that fills the holes.
        images: images, float32 `[N, H, W, C]` in [0, 1].
        mask: masks, float32 `[N, H, W, 1]`, 1 = keep.

    Returns:
        Filled images, float32 `[N, H, W, C]`: kept pixels of the image, in-fill elsewhere.
    """
    batches = parallel.slices((images, mask), _ROWS)
    filled = [
        infill(jax.random.key(index * _ROWS), generator, *parallel.pad(batch, _ROWS))
        for index, batch in enumerate(batches)
    ]
    return np.concatenate(filled)[: len(images)]


def measure_quality(infilled: np.ndarray, images: np.ndarray, mask: np.ndarray) -> Quality:
    """Compares filled images with the original images.

    Args:
        infilled: filled images, float32 `[N, H, W, C]` in [0, 1].
        images: original images, float32 `[N, H, W, C]` in [0, 1].
        mask: masks, float32 `[N, H, W, 1]`, 1 = keep; each has a hole.

    Returns:
        Means over the images.
    """
    holes = 1.0 - mask
    count = holes.sum((1, 2, 3)) * images.shape[-1]
    squared = (np.square(infilled - images) * holes).sum((1, 2, 3)) / count
    absolute = (np.abs(infilled - images) * holes).sum((1, 2, 3)) / count
    similarity = [
        structural_similarity(ours, theirs, channel_axis=-1, data_range=1.0)
        for ours, theirs in zip(infilled, images, strict=True)
    ]
    # A hole filled without error has no finite PSNR, so use at least the error of one 8-bit step.
    psnr = -10.0 * np.log10(np.maximum(squared, 255.0**-2))
    return Quality(float(psnr.mean()), float(absolute.mean()), float(np.mean(similarity)))


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Computes the Frechet distance of two sets of features, each modelled as a Gaussian.

    `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))` with means m and covariances C (Heusel et al.,
    "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017; another network computes the
    features here, so values are only comparable with each other).

    Args:
        first: features of the first set, float `[N, D]`.
        second: features of the second set, float `[M, D]`.

    Returns:
        Distance, at least 0; 0 for equal means and covariances.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    covariances = [np.atleast_2d(np.cov(features, rowvar=False)) for features in (first, second)]
    # The eigenvalues of C1 C2 are those of the symmetric C1^(1/2) C2 C1^(1/2).
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariances[1] @ root)
    cross = np.sqrt(np.maximum(product, 0.0)).sum()
    shift = np.square(first.mean(axis=0) - second.mean(axis=0)).sum()
    return float(max(shift + np.trace(covariances[0] + covariances[1]) - 2.0 * cross, 0.0))

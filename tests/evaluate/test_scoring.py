"""Masks with in-fills they were not learnt with: success rates computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax.evaluate.scoring import Scorer
from cfx_jax.fido.masks import MaskLaw, Relaxation
from cfx_jax.runs.jobs import Images

SIZE = 8


def transfer_half_kept(linear_classifier, generators, objective, block_size):
    """Transfers a mask that keeps each pixel or block of a white image with probability 1/2.

    The classifier predicts class 1 while nine pixels in ten are white.
    """
    weights = np.full((SIZE, SIZE, 1), 1.0, np.float32)
    classifier = linear_classifier(weights)
    inner = classifier.apply
    classifier = classifier.replace(
        apply=lambda params, x: inner(params, x) - jnp.asarray([0.0, 0.9 * SIZE**2])
    )
    white = np.full((1, SIZE, SIZE, 1), 255, np.uint8)
    images = Images(white, np.ones(1, int), np.zeros(1, int))
    scorer = Scorer(jax.random.key(0), classifier, generators, generators[0], 1, 1)
    law = MaskLaw(Relaxation.CONCRETE, block_size=block_size)
    cells = np.zeros((1, 2, 2), np.float32)
    log_odds, success_rate = scorer.transfer(images, cells, objective, law, num_masks=400)
    return log_odds[0], success_rate[0]


@pytest.mark.parametrize("objective", ["ssr", "sdr"])
def test_scoring_uses_the_infill_of_each_transfer_generator(
    objective, linear_classifier, fill_half
):
    infills = (
        fill_half.replace(params=jnp.asarray(0.0)),
        fill_half.replace(params=jnp.asarray(1.0)),
    )
    log_odds, success_rate = transfer_half_kept(linear_classifier, infills, objective, block_size=1)
    keeps = np.asarray([0.0, 1.0])
    np.testing.assert_array_equal(success_rate, keeps if objective == "ssr" else 1 - keeps)
    # Half of the pixels are white, four standard errors; or all.
    mean = SIZE**2 * np.asarray([0.5 - 0.9, 0.1])
    np.testing.assert_allclose(log_odds, mean, atol=4 * SIZE / 2 / np.sqrt(400))


def test_scoring_evaluates_a_block_mask_in_blocks(linear_classifier, fill_half):
    """Blocks as large as the image divide it into four, two or one, at 8 x 8 offsets."""
    black = (fill_half.replace(params=jnp.asarray(0.0)),)
    _, success_rate = transfer_half_kept(linear_classifier, black, "ssr", block_size=SIZE)
    # At most a tenth of the pixels may be dropped; all ways to keep four blocks are equally likely.
    rates = []
    for top in range(1, SIZE + 1):
        for left in range(1, SIZE + 1):
            areas = np.outer([top, SIZE - top], [left, SIZE - left]).ravel()
            kept = (np.arange(16)[:, None] >> np.arange(4)) & 1
            rates.append((kept @ areas > 0.9 * SIZE**2).mean())
    expected = np.mean(rates)
    error = 4 * np.sqrt(expected * (1 - expected) / 400)
    np.testing.assert_allclose(success_rate, [expected], atol=error)
    assert expected > 2 * error

"""Masks and maps with known answers."""

import numpy as np
import pytest
from scipy import stats

from cfx_jax.metrics import localisation, masks


def test_posterior_entropy_of_known_masks():
    keep = np.stack([np.zeros((2, 2)), np.ones((2, 2)), np.full((2, 2), 0.5),
                     np.asarray([[0.25, 0.0], [1.0, 0.5]])])  # fmt: skip
    expected = [0.0, 0.0, 1.0, (stats.entropy([0.25, 0.75], base=2) + 1.0) / 4]
    np.testing.assert_allclose(masks.posterior_entropy(keep), expected, atol=1e-12)
    assert np.isfinite(masks.posterior_entropy(keep.astype(np.float16))).all()


def test_count_parts_connects_by_edges():
    regions = np.zeros((4, 6, 6), bool)
    regions[1, 1:4, 2:5] = True
    regions[2] = np.indices((6, 6)).sum(0) % 2  # They touch at corners alone.
    regions[3, 0, :] = regions[3, 2:, 0] = regions[3, 5, 5] = True
    assert masks.count_parts(regions).tolist() == [0, 1, 18, 3]
    # The largest one of the three is the one that is boxed.
    assert localisation.tight_boxes(regions[3:]).tolist() == [[0.0, 0.0, 6.0, 1.0]]


def test_total_variation_of_known_maps():
    checkerboard = np.indices((8, 6)).sum(0) % 2
    ramp = np.tile(np.linspace(0, 1, 6), (8, 1))
    noise = np.random.default_rng(0).uniform(size=(200, 200))
    found = masks.total_variation(np.stack([checkerboard, 0 * checkerboard, ramp]))
    # A ramp climbs across 40 of 82 pairs of neighbours, a fifth at a time.
    np.testing.assert_allclose(found, [1.0, 0.0, 40 / 82 / 5])
    assert masks.total_variation(noise[None])[0] == pytest.approx(1 / 3, abs=0.01)


def test_rank_agreement_equals_scipy():
    rng = np.random.default_rng(0)
    ours = rng.integers(0, 9, (4, 6, 7)).astype(float)  # With ties.
    theirs = ours + rng.normal(size=ours.shape)
    expected = [stats.spearmanr(a.ravel(), b.ravel())[0] for a, b in zip(ours, theirs, strict=True)]
    np.testing.assert_allclose(masks.rank_agreement(ours, theirs), expected)


def test_rank_agreement_in_half_precision_equals_double():
    rng = np.random.default_rng(0)
    maps = rng.uniform(size=(2, 2, 60, 60)).astype(np.float16)
    expected = masks.rank_agreement(*maps.astype(float))
    np.testing.assert_array_equal(masks.rank_agreement(*maps), expected)


def test_rank_agreement_does_not_depend_on_scale():
    maps = np.random.default_rng(0).uniform(size=(2, 5, 5))
    np.testing.assert_allclose(masks.rank_agreement(maps, np.exp(9 * maps)), 1.0)
    np.testing.assert_allclose(masks.rank_agreement(maps, -maps), -1.0)
    flat = np.ones((2, 5, 5))
    assert np.isnan(masks.rank_agreement(maps, flat)).all()
    with pytest.raises(ValueError, match="expected the same"):
        masks.rank_agreement(maps, maps[:1])


def test_restart_variance_known_answers():
    rng = np.random.default_rng(0)
    keep = rng.uniform(size=(400, 3, 4, 4))
    keep[:, 1] = 0.7
    keep[:, 2] = np.round(keep[:, 2])
    np.testing.assert_allclose(masks.restart_variance(keep), [1 / 12, 0.0, 1 / 4], atol=0.005)
    with pytest.raises(ValueError, match="two restarts or more"):
        masks.restart_variance(keep[:1])

"""Boxes of maps: hand-made maps with known answers, and naive loops as an oracle."""

import numpy as np
import pytest

from cfx_jax.metrics import localisation as loc

SIZE = (20, 30)
BOX = np.asarray([[5.0, 4.0, 17.0, 14.0]])


def drawn(box, size=SIZE, value=1.0):
    """A map that is `value` in a box of whole pixels and 0 elsewhere, `[1, H, W]`."""
    maps = np.zeros((1, *size))
    x0, y0, x1, y1 = np.asarray(box).astype(int)
    maps[0, y0:y1, x0:x1] = value
    return maps


def errors(regions, truths):
    return loc.localisation_errors(loc.tight_boxes(regions), truths).tolist()


def test_localisation_errors_of_perfect_and_inverted_maps():
    perfect = drawn(BOX[0])
    assert loc.tight_boxes(loc.above_mean(perfect)).tolist() == BOX.tolist()
    assert errors(loc.above_mean(perfect), [BOX]) == [0.0]
    assert errors(loc.above_mean(1 - perfect), [BOX]) == [1.0]
    assert loc.f1_scores(perfect, [BOX]).tolist() == [1.0]
    assert loc.f1_scores(1 - perfect, [BOX]).tolist() == [0.0]
    assert loc.pointing_hits(perfect, [BOX]).tolist() == [1.0]
    assert loc.pointing_hits(drawn([0, 0, 2, 2]), [BOX]).tolist() == [0.0]


def test_box_shares_use_the_union_of_boxes():
    maps = np.concatenate([drawn(BOX[0]), 1 - drawn(BOX[0]), drawn(BOX[0], value=3.0)])
    maps[2, 0, :9] = 40.0  # 360 outside of the box, as much as inside of it.
    assert loc.box_shares(maps, [BOX] * 3).tolist() == [1.0, 0.0, 0.5]
    flat = np.full((1, *SIZE), 0.1)
    halves = np.asarray([[0.0, 0.0, 15.0, 20.0], [10.0, 0.0, 20.0, 20.0]])  # A third is in both.
    np.testing.assert_allclose(loc.box_shares(flat, [halves]), 2 / 3)
    half_a_pixel = np.asarray([[0.5, 0.0, 1.0, 1.0]])
    np.testing.assert_allclose(loc.box_shares(drawn([0, 0, 1, 1]), [half_a_pixel]), 0.5)


def test_box_shares_are_nan_without_boxes_or_mass():
    assert np.isnan(loc.box_shares(drawn(BOX[0]), [np.zeros((0, 4))])).all()
    assert np.isnan(loc.box_shares(np.zeros((1, *SIZE)), [BOX])).all()
    with pytest.raises(ValueError, match=r"truths\[0\]"):
        loc.box_shares(drawn(BOX[0]), [np.zeros(4)])


def test_smooth_joins_the_grains_of_an_object():
    box = np.asarray([[20.0, 10.0, 60.0, 50.0]])
    grains = np.zeros((1, 80, 80))
    grains[0, 10:50:4, 20:60:4] = 1.0  # No two of them touch.
    assert errors(loc.above_mean(grains), [box]) == [1.0]
    smoothed = loc.smooth(grains)
    assert errors(loc.above_share(smoothed, 0.5), [box]) == [0.0]
    np.testing.assert_allclose(smoothed.sum(), grains.sum(), rtol=1e-6)


def test_smooth_blurs_each_map_with_the_stated_gaussian():
    maps = np.zeros((2, 41, 61))
    maps[0, 20, 30] = 1.0
    smoothed = loc.smooth(maps)
    assert not smoothed[1].any()
    y, x = np.mgrid[-20:21, -30:31]
    expected = np.exp(-(x**2 + y**2) / (2 * (loc.SMOOTHING * 41) ** 2))
    np.testing.assert_allclose(smoothed[0], expected / expected.sum(), atol=1e-5)


def test_localisation_of_a_flat_map_is_empty_and_central():
    flat = np.full((1, *SIZE), 0.3)
    for region in (loc.above_mean(flat), loc.above_share(flat, 0.2)):
        assert not region.any()
        assert loc.tight_boxes(region).tolist() == [[0, 0, 0, 0]]
        assert errors(region, [BOX]) == [1.0]
    centre = np.asarray([[14.0, 9.0, 16.0, 11.0]])
    assert loc.pointing_hits(flat, [centre]).tolist() == [1.0]
    assert loc.f1_scores(0 * flat, [BOX]).tolist() == [0.0]


def test_tight_boxes_surround_the_largest_connected_part():
    region = np.zeros((2, 6, 8), bool)
    region[0, 1:3, 1:3] = region[0, 3:6, 3:6] = True  # They touch at a corner only.
    region[0, 0, 7] = True
    region[1, 2, 0:7] = region[1, 4:6, 0:3] = True
    assert loc.tight_boxes(region).tolist() == [[3, 3, 6, 6], [0, 2, 7, 3]]


@pytest.mark.parametrize(
    ("box", "truths", "expected"),
    [
        ([0, 0, 10, 10], [[0, 0, 10, 10]], 1.0),
        ([0, 0, 10, 10], [[5, 0, 15, 10]], 1 / 3),
        ([0, 0, 10, 10], [[10, 0, 20, 10]], 0.0),
        ([0, 0, 10, 10], [[20, 20, 30, 30], [0, 0, 10, 5]], 0.5),
        # Cut off by the picture: what lies outside counts in the area of the true box.
        ([0, 0, 10, 10], [[-10, 0, 10, 10]], 0.5),
        ([0, 0, 0, 0], [[0, 0, 10, 10]], 0.0),
    ],
)
def test_best_overlap_known_answers(box, truths, expected):
    found = loc.best_overlap(np.asarray([box], float), [np.asarray(truths, float)])
    np.testing.assert_allclose(found, [expected])


def test_localisation_errors_require_more_than_half_overlap():
    """ILSVRC also requires an overlap above one half."""
    half = drawn([0, 0, 10, 5])
    truth = np.asarray([[0.0, 0.0, 10.0, 10.0]])
    assert errors(loc.above_mean(half), [truth]) == [1.0]
    more = drawn([0, 0, 10, 6])
    assert errors(loc.above_mean(more), [truth]) == [0.0]


def test_official_errors_include_a_wrong_class():
    found = loc.official_errors(np.asarray([0.0, 0.0, 1.0, 0.0]), np.asarray([1, 0, 1, np.nan]))
    np.testing.assert_array_equal(found, [0.0, 1.0, 1.0, np.nan])


def test_max_box_accuracy_finds_the_best_threshold():
    """The map is a hill on a wide base: only above the base does it fit the box."""
    hill = drawn([1, 1, 29, 19], value=0.4) + drawn(BOX[0], value=0.6)
    found = loc.found_at_shares(np.concatenate([hill] * 2), [BOX, BOX[:0]], [0.1, 0.3, 0.5, 0.7])
    np.testing.assert_array_equal(found, [[0.0, 0.0, 1.0, 1.0], [np.nan] * 4])
    np.testing.assert_array_equal(loc.max_box_accuracy(found), [1.0, np.nan])
    np.testing.assert_array_equal(loc.max_box_accuracy(found[1:]), [np.nan])
    mixed = np.asarray([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert loc.max_box_accuracy(mixed).tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("box", [[2.5, 1.0, 7.25, 3.75], [-4.0, -1.0, 3.5, 40.0]])
def test_f1_scores_equal_sums_over_fine_pixels(box):
    """Fractional boxes score the same on a grid sixteen times as fine."""
    rng = np.random.default_rng(0)
    maps = rng.uniform(size=(1, 8, 10))
    fine = np.kron(maps[0], np.ones((16, 16)))
    y, x = (np.indices(fine.shape) + 0.5) / 16
    inside = (box[0] < x) & (x < box[2]) & (box[1] < y) & (y < box[3])
    precision = (fine * inside).sum() / fine.sum()
    recall = (fine * inside).sum() / inside.sum()
    expected = 2 * precision * recall / (precision + recall)
    found = loc.f1_scores(maps, [np.asarray([box])])
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


def test_f1_scores_take_the_best_box():
    other = np.asarray([[20.0, 15.0, 30.0, 20.0]])
    maps = drawn(BOX[0])
    both = np.concatenate([other, BOX])
    assert loc.f1_scores(maps, [both]).tolist() == [1.0]
    assert loc.f1_scores(maps, [other]).tolist() == [0.0]


def test_centre_and_whole_boxes_known_answers():
    whole = loc.whole_boxes(2, (224, 227))
    assert whole.tolist() == [[0, 0, 227, 224]] * 2
    centre = loc.centre_boxes(1, (227, 227), 33)
    assert centre.tolist() == [[33, 33, 194, 194]]
    truth = np.asarray([[0.0, 0.0, 227.0, 112.0]])
    assert loc.best_overlap(loc.whole_boxes(1, (227, 227)), [truth])[0] == pytest.approx(112 / 227)


def test_localisation_errors_are_nan_without_a_box():
    maps, truths = np.concatenate([drawn(BOX[0])] * 2), [BOX, BOX[:0]]
    for measure in (loc.pointing_hits, loc.f1_scores):
        np.testing.assert_array_equal(measure(maps, truths), [1.0, np.nan])
    boxes = loc.tight_boxes(maps > 0)
    np.testing.assert_array_equal(loc.localisation_errors(boxes, truths), [0.0, np.nan])


@pytest.mark.parametrize("truth", [np.zeros(4), np.zeros((2, 3))])
def test_best_overlap_names_input_that_is_no_boxes(truth):
    with pytest.raises(ValueError, match=r"truths\[1\] has shape"):
        loc.best_overlap(np.zeros((2, 4)), [BOX, truth])

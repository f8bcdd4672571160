"""The adapted price and the threshold search, on classifiers that need a known area."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import cfx_jax
from cfx_jax import Classifier, Status
from cfx_jax.fido.explanation import assign_status
from cfx_jax.fido.hard_masks import evaluate_hard_masks, search_and_evaluate
from cfx_jax.fido.objective import SDR, SSR, make_problem
from cfx_jax.fido.question import Question
from cfx_jax.fido.settings import get_settings
from cfx_jax.fido.threshold import (
    ThresholdSearch,
    connect,
    limit_connected_search,
    smallest_region,
    start_searches,
)

SIZE = 32
KEY = jax.random.key(0)


def count_white(share, images):
    """Predicts class 1 where more than a share of the image is white: 10 logits an image."""
    area = images.mean((1, 2, 3))
    return jnp.stack([jnp.zeros_like(area), 10.0 * (area - share)], axis=1)


@pytest.fixture
def black():
    return cfx_jax.load_generator("grey").replace(apply=lambda _, x, mask, key: jnp.zeros_like(x))


def find_threshold_alone(cells, problem, classifier, generator, settings):
    """As `finish` does with the image's own logits."""
    original = classifier.apply(classifier.params, problem.image[None])[0]
    logit_margin = problem.question.logit_margin(original, classifier)
    searches = start_searches(cells, problem.direction, logit_margin, settings)
    keys = jax.random.split(KEY)
    found = search_and_evaluate(
        KEY, keys[0], searches, problem, classifier, generator, law=settings.mask_law,
        full_infill_key=keys[1],
    )  # fmt: skip
    return found[0]


@pytest.mark.parametrize("share", [0.2, 0.6])
@pytest.mark.parametrize("objective", ["ssr", "sdr"])
def test_find_threshold_finds_the_smallest_sufficient_level(objective, share, black):
    """The map is a slope over a white image: SSR keeps the left of an edge, SDR the right."""
    classifier = Classifier(params=share, apply=count_white)
    settings = get_settings(
        "region", mask_size=8, smooth_scale=0.5, success_target=0.9, sharpness=40.0,
        confidence=0.25,
    )  # fmt: skip
    slope = jnp.broadcast_to(jnp.linspace(3.0, -3.0, 8), (8, 8))
    problem = make_problem(KEY, jnp.ones((SIZE, SIZE, 3)), Question(1), objective)
    cells = find_threshold_alone(slope, problem, classifier, black, settings)
    pixels = settings.mask_law.keep_map(cells, (SIZE, SIZE))
    # Above the share for SSR, below for SDR, by the reserve of half a logit, which is 5 % of the
    # image, the step of the bisection, which is 4 %, and what the masks vary.
    low, high = (share, share + 0.15) if objective == "ssr" else (share - 0.15, share)
    assert low <= float(pixels.keep.mean()) <= high
    # As it was, but for the level and the slope.
    shift = cells / 40.0 - slope
    np.testing.assert_allclose(shift, shift[0, 0], atol=1e-4)


@pytest.mark.parametrize(("objective", "kept"), [("ssr", 1.0), ("sdr", 0.0)])
def test_find_threshold_goes_to_the_end_without_a_sufficient_level(objective, kept, black):
    never = Classifier(params=2.0 if objective == "ssr" else -1.0, apply=count_white)
    settings = get_settings("region", mask_size=4, sharpness=3.0)
    problem = make_problem(KEY, jnp.ones((SIZE, SIZE, 3)), Question(1), objective)
    cells = find_threshold_alone(jnp.zeros((4, 4)), problem, never, black, settings)
    keep = settings.mask_law.keep_map(cells, (SIZE, SIZE)).keep
    np.testing.assert_allclose(keep, kept, atol=1e-6)


@pytest.mark.parametrize("objective", ["ssr", "sdr"])
def test_find_threshold_finds_a_region_for_small_logits(objective, black):
    """The margin on the whole image is half a logit, and the reserve a quarter of it."""

    def whisper(share, images):
        return 0.1 * count_white(share, images)

    classifier = Classifier(params=0.5, apply=whisper)
    settings = get_settings(
        "region", mask_size=8, smooth_scale=0.5, sharpness=40.0, confidence=0.25
    )
    slope = jnp.broadcast_to(jnp.linspace(3.0, -3.0, 8), (8, 8))
    problem = make_problem(KEY, jnp.ones((SIZE, SIZE, 3)), Question(1), objective)
    cells = find_threshold_alone(slope, problem, classifier, black, settings)
    kept = float(settings.mask_law.keep_map(cells, (SIZE, SIZE)).keep.mean())
    assert 0.5 < kept < 0.85 if objective == "ssr" else 0.15 < kept < 0.5


def test_find_threshold_avoids_the_whole_image_despite_its_margin(black):
    """The margin is 5.3 on the whole image and at most 0.3 on any other."""

    def jump(share, images):
        area = images.mean((1, 2, 3))
        logit_margin = jnp.where(area > share, 0.3, -5.0) + jnp.where(area > 0.999, 5.0, 0.0)
        return jnp.stack([jnp.zeros_like(logit_margin), logit_margin], axis=1)

    settings = get_settings("region", mask_size=8, smooth_scale=0.5, sharpness=40.0)
    slope = jnp.broadcast_to(jnp.linspace(6.0, -6.0, 8), (8, 8))
    problem = make_problem(KEY, jnp.ones((SIZE, SIZE, 3)), Question(1), "ssr")
    cells = find_threshold_alone(
        slope, problem, Classifier(params=0.3, apply=jump), black, settings
    )
    kept = float(settings.mask_law.keep_map(cells, (SIZE, SIZE)).keep.mean())
    # The first level tried keeps half, and two more a sixth of the image more.
    assert 0.6 < kept < 0.75


@pytest.mark.parametrize("objective", ["ssr", "sdr"])
def test_explain_region_covers_the_evidence_and_meets_the_target(objective, black):
    """Half of a patch decides: the region is one part on it and meets the target."""

    def count_patch(share, images):
        return count_white(share, images[:, 8:20, 12:24])

    classifier = Classifier(params=0.5, apply=count_patch)
    e = cfx_jax.explain(
        KEY, classifier, black, jnp.ones((1, SIZE, SIZE, 3)), jnp.asarray([1]), objective=objective,
        mask_size=8,
    )  # fmt: skip
    assert e.status[0] == Status.OK
    assert e.success_rate[0] >= get_settings("region").success_target
    region = np.asarray(e.saliency[0] > 0.5)
    assert ndimage.label(region)[1] == 1
    assert region[8:20, 12:24].mean() > 0.5
    # The patch is 14 % of the image.
    assert region.mean() < 0.3


@pytest.mark.parametrize(("target", "status"), [(0.0, Status.OK), (0.99, Status.NOT_PRESERVED)])
def test_assign_status_shows_whether_the_target_is_met(target, status, black):
    """The map is 1/2 everywhere: about every other mask keeps more than half of the image."""
    classifier = Classifier(params=0.5, apply=count_white)
    e = cfx_jax.explain(
        jax.random.key(4), classifier, black, jnp.ones((1, SIZE, SIZE, 3)), jnp.asarray([1]),
        mode="fast", num_steps=1, learning_rate=1e-6, initial_keep=0.502, mask_size=4,
    )  # fmt: skip
    assert 0.5 <= e.success_rate[0] < 0.99
    one = jax.tree.map(lambda leaf: leaf[0], e)
    problem = make_problem(KEY, jnp.ones((SIZE, SIZE, 3)), Question(1), "ssr")
    assert assign_status(one, problem, jnp.asarray(True), target or 0.5).status == status


def test_settings_num_evaluations_includes_the_search():
    assert get_settings("fast").num_evaluations == 240
    region = get_settings("region", num_steps=10, num_samples=2)
    assert region.num_evaluations == 20 + (6 + 4) * 4
    assert get_settings("region").num_evaluations == 280
    # A small reserve takes more masks per step.
    assert get_settings("region", confidence=0.25).num_evaluations == 240 + (6 + 4) * 8


@pytest.mark.parametrize("reached", [[3.0] * 8, [0.2] * 8, [-1.0] * 8, [3.0] * 7 + [-1.0]])
def test_search_update_halves_the_interval(reached):
    """The level moves towards more pixels when too few masks suffice; 7 of 8 is below 0.9."""
    settings = get_settings("region")
    search = ThresholdSearch(
        jnp.zeros((2, 2)),
        *map(jnp.float32, (1.0, 0.5, -8.0, 8.0, 8.0)),
        jnp.asarray(False),
        settings,
    )
    after = search.update(jnp.asarray(reached))
    expected = (-8.0, 0.0) if reached == [3.0] * 8 else (0.0, 8.0)
    assert bool(after.is_reached) == (reached == [3.0] * 8)
    assert (float(after.low), float(after.high)) == expected
    assert float(after.high_without_reserve) == (0.0 if min(reached) > 0 else 8.0)
    np.testing.assert_allclose(after.candidate(), 8.0 * np.full((2, 2), sum(expected) / 2))


@pytest.mark.parametrize("seed", range(4))
def test_connect_equals_the_part_around_the_maximum_at_each_threshold(seed):
    cells = np.random.default_rng(seed).normal(size=(13, 17)).astype(np.float32)
    expected = np.zeros_like(cells)
    for threshold in np.sort(cells, axis=None):
        parts = ndimage.label(cells >= threshold)[0]
        expected[parts == parts.flat[cells.argmax()]] = threshold
    np.testing.assert_array_equal(connect(jnp.asarray(cells)), expected)


def test_connect_leaves_one_part_above_any_threshold():
    """Two peaks in a plain: the lower one is cut down to the plain."""
    cells = np.zeros((9, 9), np.float32)
    cells[1:4, 1:4], cells[6:8, 6:8] = 3.0, 2.0
    found = np.asarray(connect(jnp.asarray(cells)))
    np.testing.assert_array_equal(found, np.where(cells == 3.0, 3.0, 0.0))
    path = cells.copy()
    path[4:6, 3] = path[6, 3:6] = 1.0  # Joins the peaks; a corner would not.
    path[4, 4] = path[5, 5] = 1.5
    expected = np.where((path == 2.0) | (path == 1.5), 1.0, path)
    np.testing.assert_array_equal(connect(jnp.asarray(path)), expected)


def test_connect_ends_with_values_that_are_not_finite():
    found = jax.jit(jax.vmap(connect))(jnp.asarray([[[jnp.nan, 1.0]], [[2.0, 1.0]]]))
    np.testing.assert_array_equal(found[1], [[2.0, 1.0]])


@pytest.mark.parametrize(
    ("highs", "plain_highs", "is_connected"),
    [
        # Peaks of 3 and 2, at 4 cells each, in a plain of -1.
        ((-1.0, -1.0), (-1.0, -1.0), True),  # Half of the area.
        ((-1.0, 8.0), (-1.0, 8.0), False),  # One peak does not suffice.
        ((-1.0, 2.0), (-1.0, 2.0), False),  # Only with the plain.
        ((8.0, 0.5), (8.0, 0.5), True),  # The learnt map has not reached the target.
        ((-1.0, -1.0), (-1.0, -6.0), False),  # The reserve takes a shift of more than four.
    ],
)
@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_smallest_region_takes_one_part_where_it_suffices(
    highs, plain_highs, is_connected, direction
):
    importance = jnp.full((6, 6), -1.0).at[:2, :2].set(3.0).at[4:, 4:].set(2.0)
    searches = start_searches(
        direction * importance, jnp.float32(direction), jnp.float32(2.0), get_settings("region")
    )
    done = dataclasses.replace(
        searches,
        high=jnp.asarray(highs),
        high_without_reserve=jnp.asarray(plain_highs),
        is_reached=jnp.asarray(highs) < 8.0,
    )
    kept = direction * smallest_region(done, (24, 24)) > 0
    assert bool(kept[0, 0])
    assert bool(kept[5, 5]) != is_connected


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("direction", [SSR, SDR])
def test_limit_connected_search_ends_at_the_area_of_the_first(direction, seed):
    importance = np.random.default_rng(seed).normal(size=(9, 9)).astype(np.float32)
    searches = start_searches(
        direction * importance, jnp.float32(direction), jnp.float32(2.0), get_settings("region")
    )
    first = jax.tree.map(lambda every: every[0], searches)
    low, high = -0.4, 0.3
    done = dataclasses.replace(
        searches,
        low=searches.low.at[0].set(low),
        high=searches.high.at[0].set(high),
        high_without_reserve=searches.high.at[0].set(high),
    )
    limited = limit_connected_search(done)
    jax.tree.map(lambda new, old: np.testing.assert_array_equal(new[0], old[0]), limited, done)
    connected = np.asarray(connect(jnp.asarray(importance)))
    num_cells = (importance > -high).sum()
    assert (connected > -limited.high[1]).sum() <= num_cells
    # Any larger shift adds a cell too many.
    assert (connected >= -limited.high[1]).sum() > num_cells
    assert limited.low[1] == min(low, float(limited.high[1]))
    assert not limited.is_reached[1]
    assert first.high == 8.0


@pytest.mark.parametrize("objective", ["ssr", "sdr"])
def test_search_and_evaluate_scores_the_map_found(objective, black):
    """Evaluating the returned map alone with the same key gives the same result."""
    classifier = Classifier(params=0.4, apply=count_white)
    settings = get_settings("region", mask_size=8, smooth_scale=0.5)
    slope = jnp.broadcast_to(jnp.linspace(3.0, -3.0, 8), (8, 8))
    problem = make_problem(KEY, jnp.ones((SIZE, SIZE, 3)), Question(1), objective)
    arguments, law = (problem, classifier, black), settings.mask_law
    searches = start_searches(slope, problem.direction, jnp.float32(6.0), settings)
    keys = jax.random.split(KEY, 3)
    cells, result = search_and_evaluate(
        keys[0], keys[1], searches, *arguments, law=law, full_infill_key=keys[2]
    )
    pixels = law.keep_map(cells, (SIZE, SIZE))
    alone = evaluate_hard_masks(
        keys[1], pixels, *arguments, law=law, full_infill_key=keys[2], max_chunk_size=3
    )
    assert np.ptp(alone.logits[:, 1]) > 0.5
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), result, alone)


@pytest.mark.parametrize("direction", [SSR, SDR])
def test_start_searches_reserve_is_reached_by_the_margin_of_the_whole_image(direction):
    """Rounding of an equal margin, as of batches of another size, decides nothing."""
    settings = get_settings("region", confidence=1.0)
    searches = start_searches(jnp.zeros((4, 4)), direction, direction * jnp.float32(1.5), settings)
    for margin, is_reached in [(1.5 * (1 - 1e-5), True), (1.5 * (1 + 1e-5), True), (1.4, False)]:
        search = jax.tree.map(lambda every: every[0], searches)
        updated = search.update(jnp.full(8, margin, jnp.float32))
        assert (float(updated.high) < float(search.high)) == is_reached

"""Further regions and regions of interest, on classifiers whose sufficient regions are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax import Classifier, Status
from cfx_jax.fido.alternatives import check_alternative, sort_by_area
from cfx_jax.fido.masks import MaskLaw, Relaxation
from cfx_jax.fido.objective import keep_map, make_problem
from cfx_jax.fido.question import Question

KEY = jax.random.key(0)
SIZE = 24
LEFT, RIGHT = (slice(6, 14), slice(2, 10)), (slice(10, 18), slice(14, 22))
WHITE = jnp.ones((2, SIZE, SIZE, 3))


def whiteness(images):
    """How white the left and the right patch are, `[2, N]` in [0, 1]."""
    patches = [images[:, rows, columns].mean((1, 2, 3)) for rows, columns in (LEFT, RIGHT)]
    return jax.nn.sigmoid(15.0 * (jnp.stack(patches) - 0.7))


def either(_, images):
    left, right = whiteness(images)
    return jnp.stack([jnp.zeros_like(left), 8.0 * (1 - (1 - left) * (1 - right)) - 4.0], axis=1)


def left_only(_, images):
    left = whiteness(images)[0]
    return jnp.stack([jnp.zeros_like(left), 8.0 * left - 4.0], axis=1)


@pytest.fixture
def black():
    return cfx_jax.load_generator("grey").replace(apply=lambda _, x, mask, key: jnp.zeros_like(x))


def explain(apply, generator, **options):
    return cfx_jax.explain(
        KEY, Classifier(params=(), apply=apply), generator, WHITE[:1], jnp.asarray([1]),
        mask_size=12, num_steps=60, **options,
    )  # fmt: skip


def find_patches(saliency):
    """Names the patches of which a region covers more than half."""
    region = np.asarray(saliency) > 0.5
    patches = {"left": LEFT, "right": RIGHT}
    return [name for name, patch in patches.items() if region[patch].mean() > 0.5]


def test_explain_alternatives_finds_both_regions_and_no_third(black):
    e = explain(either, black, alternatives=3)
    assert e.saliency.shape == (1, 3, SIZE, SIZE)
    assert e.status[0].tolist() == [Status.OK, Status.OK, Status.NO_ALTERNATIVE]
    found = [find_patches(one) for one in e.saliency[0, :2]]
    assert sorted(found) == [["left"], ["right"]]
    assert (e.success_rate[0, :2] >= 0.9).all()
    assert e.region[0, 0].sum() <= e.region[0, 1].sum()


def test_explain_alternatives_reports_the_only_region(black):
    e = explain(left_only, black, alternatives=2)
    assert e.status[0].tolist() == [Status.OK, Status.NO_ALTERNATIVE]
    assert find_patches(e.saliency[0, 0]) == ["left"]
    assert (e.saliency[0, 1] == 0).all()
    assert e.success_rate[0, 1] == 0
    assert (e.top_classes[0, 1] == -1).all()
    assert not e.region[0, 1].any()


@pytest.mark.slow
def test_explain_alternatives_contains_the_explanation_without_them(black):
    alone, every = explain(either, black), explain(either, black, alternatives=2)
    # Prices of 1 are multiplied with each pixel, in another order of operations.
    difference = np.abs(every.saliency[0] - alone.saliency).max((1, 2))
    assert difference.min() < 2e-3 < difference.max()


def test_sort_by_area_puts_failures_behind_regions(black):
    """An explanation that is not finite has no region, and its area is therefore 0."""
    one = jax.tree.map(lambda leaf: leaf[0], explain(left_only, black))
    region = np.asarray(one.region, np.float32)
    smaller = region * (np.arange(SIZE) < 6)
    maps = np.stack([region, np.full_like(region, np.nan), smaller, np.zeros_like(region)])
    status = [Status.OK, Status.NON_FINITE, Status.OK, Status.NO_ALTERNATIVE]
    found = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), one)
    found = found.replace(saliency=jnp.asarray(maps), status=jnp.asarray(status, jnp.int32))
    ranked = sort_by_area(found)
    expected = [Status.OK, Status.OK, Status.NON_FINITE, Status.NO_ALTERNATIVE]
    assert ranked.status.tolist() == expected
    assert ranked.region[0].sum() < ranked.region[1].sum()


@pytest.mark.slow
@pytest.mark.parametrize("setting", [jax.enable_x64, jax.debug_nans], ids=["x64", "debug_nans"])
def test_explain_alternatives_computes_under_settings_of_jax(setting, black):
    expected = explain(left_only, black, alternatives=2)
    with setting(True):
        found = explain(left_only, black, alternatives=2)
    assert [x.dtype for x in jax.tree.leaves(found)] == [x.dtype for x in jax.tree.leaves(expected)]
    assert found.status.tolist() == [[Status.OK, Status.NO_ALTERNATIVE]]


def test_check_alternative_limits_the_overlap(black):
    found = jax.tree.map(lambda leaf: leaf[0], explain(left_only, black))
    region = found.saliency > 0.5
    for share, status in [(0.4, Status.OK), (0.6, Status.NO_ALTERNATIVE)]:
        covered = jnp.cumsum(region.ravel()).reshape(region.shape) <= share * region.sum()
        earlier = jnp.stack([jnp.zeros_like(region), region & covered])
        assert check_alternative(found, earlier, 0.5) == status
    empty = found.replace(saliency=jnp.zeros_like(found.saliency))
    assert check_alternative(empty, earlier, 0.5) == Status.NO_ALTERNATIVE
    failed = found.replace(status=jnp.int32(Status.NOT_PRESERVED))
    assert check_alternative(failed, earlier, 1.0) == Status.NO_ALTERNATIVE
    assert check_alternative(failed, jnp.zeros_like(earlier), 1.0) == Status.NOT_PRESERVED


@pytest.mark.parametrize(
    "law",
    [
        MaskLaw(Relaxation.CONCRETE),
        MaskLaw(Relaxation.CONCRETE, smooth_scale=0.1, sharpness=8.0),
        MaskLaw(Relaxation.DETERMINISTIC),
    ],
)
@pytest.mark.parametrize("objective", ["ssr", "sdr"])
def test_keep_map_excludes_forbidden_pixels_under_any_law(objective, law):
    allowed = np.zeros((SIZE, SIZE), bool)
    allowed[RIGHT] = True
    prices = jnp.where(allowed, 1.0, jnp.inf)
    problem = make_problem(KEY, WHITE[0], Question(1), objective, prices)
    # Cells of the opposite: SSR would keep everything, and SDR would drop everything.
    cells = jnp.full((12, 12), 8.0 if objective == "ssr" else -8.0)
    pixels = keep_map(cells if law.is_random else jax.nn.sigmoid(cells), problem, law)
    outside = 0.0 if objective == "ssr" else 1.0
    np.testing.assert_array_equal(np.asarray(pixels.keep)[~allowed], outside)
    # Inside, all cells but those at the border are as they were.
    assert abs(float(pixels.keep[14, 18]) - (1.0 - outside)) < 1e-3


@pytest.mark.parametrize("objective", ["ssr", "sdr"])
def test_explain_allowed_leaves_no_pixel_outside(objective, black):
    """Both patches suffice; only the right one is allowed. The left one flips, and is not."""
    allowed = np.zeros((SIZE, SIZE), bool)
    allowed[RIGHT] = True
    e = explain(either, black, allowed=allowed, objective=objective)
    assert (np.asarray(e.saliency)[0][~allowed] < 1e-6).all()
    changed = np.asarray(e.infilled[0, ..., 0] < 0.5)
    forbidden_pixels_are_filled = changed[~allowed]
    if objective == "ssr":
        assert forbidden_pixels_are_filled.all()
        assert e.kept_area[0] <= allowed.mean()
    else:
        assert not forbidden_pixels_are_filled.any()
        assert e.kept_area[0] >= 1 - allowed.mean() - 1e-6


def test_explain_allowed_finds_the_region_inside(black):
    allowed = np.ones((1, SIZE, SIZE), int)
    allowed[0][LEFT] = 0
    e = explain(either, black, allowed=allowed)
    assert e.status[0] == Status.OK
    assert find_patches(e.saliency[0]) == ["right"]


@pytest.mark.slow
def test_explain_allowed_differs_for_each_image(black):
    allowed = np.ones((2, SIZE, SIZE), bool)
    allowed[0][LEFT], allowed[1][RIGHT] = False, False
    classifier = Classifier(params=(), apply=either)
    both = cfx_jax.explain_both(
        KEY, classifier, black, WHITE, mask_size=12, num_steps=60, allowed=allowed
    )
    assert [find_patches(one) for one in both["ssr"].saliency] == [["right"], ["left"]]
    # SDR has to remove both patches.
    assert both["sdr"].status.tolist() == [Status.NOT_FLIPPED] * 2


def test_explain_one_accepts_allowed_and_alternatives(black):
    allowed = np.ones((SIZE, SIZE), bool)
    allowed[RIGHT] = False
    e = cfx_jax.explain_one(
        KEY, Classifier(params=(), apply=either), black, WHITE[0], 1, mask_size=12, num_steps=60,
        allowed=allowed, alternatives=2,
    )  # fmt: skip
    assert find_patches(e.saliency[0]) == ["left"]
    assert e.status.tolist() == [Status.OK, Status.NO_ALTERNATIVE]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alternatives": 0}, r"alternatives is 0; expected a whole number of at least 1"),
        ({"alternatives": True}, r"alternatives is True; expected a whole number"),
        ({"max_overlap": 1.5}, r"max_overlap is 1.5; expected a share between 0 and 1"),
        ({"allowed": np.ones((3, 4))}, r"allowed has shape \(3, 4\); expected \(24, 24\), .*each"),
        ({"allowed": np.full((SIZE, SIZE), 255)}, r"other values than True and False.*mask > 0"),
        (
            {"allowed": np.zeros((SIZE, SIZE))},
            r"no cell of the mask lies in the allowed pixels of image 0; a cell is 2 p",
        ),
    ],
)
def test_explain_rejects_wrong_alternatives_and_regions(options, message, black):
    with pytest.raises(ValueError, match=message):
        explain(either, black, **options)

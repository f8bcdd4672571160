"""The published objective, each term against an independent answer."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from scipy.special import expit

from cfx_jax import Classifier
from cfx_jax.classifiers import fast_convolution, log_odds, logit_margin
from cfx_jax.fido import objective
from cfx_jax.fido.objective import classify_infilled, make_problem
from cfx_jax.fido.question import Question
from cfx_jax.fido.settings import MODES, get_settings

# Gives the kind of its logits, and is never called.
SOFTMAX = Classifier(params=(), apply=None)


@pytest.mark.parametrize("logits", [[200.0, -200.0], [-3e4, 3e4, 0.0], [90.0, 0.0, 0.0]])
@pytest.mark.parametrize("target", [0, 1])
def test_log_odds_is_finite_when_the_classifier_is_sure(logits, target):
    value, gradient = jax.value_and_grad(log_odds)(jnp.asarray(logits), target)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    others = [x for k, x in enumerate(logits) if k != target]
    expected = logits[target] - max(others) - math.log(sum(x == max(others) for x in others))
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_relaxed_objective_passes_no_gradient_through_the_infill(linear_classifier, images):
    """A generator that copies its parameter: the gradient of that parameter must be zero."""
    from cfx_jax import Generator

    def fill(params, images, mask, key):
        return jnp.full_like(images, params) + images * mask

    problem = make_problem(jax.random.key(0), images[0], Question(1), "ssr")
    classifier = linear_classifier(np.ones((16, 16, 3)))

    def loss(params, image):
        generator = Generator(params=params, apply=fill)
        return objective.relaxed_objective(
            jnp.zeros((8, 8)),
            jnp.asarray(1),
            problem._replace(image=image),
            classifier,
            generator,
            MODES["paper"],
        )[0]

    by_params, by_image = jax.grad(loss, argnums=(0, 1))(0.5, images[0])
    assert float(by_params) == 0.0
    # What remains is the path through the kept part of the composite alone: z, never z + (1 - z) z.
    pixels = MODES["paper"].mask_law.keep_map(jnp.zeros((8, 8)), (16, 16))
    mask_key = jax.random.split(jax.random.fold_in(problem.key, 1))[0]
    masks = MODES["paper"].mask_law.draw(mask_key, pixels, 8)[0]
    np.testing.assert_allclose(by_image[..., 0], -masks.mean(0)[..., 0], atol=1e-6)


def test_relaxed_objective_infills_hard_and_classifies_soft_masks(images):
    seen = {}

    def fill(params, images, mask, key):
        jax.debug.callback(lambda m: seen.update(holes=np.asarray(m)), mask)
        return jnp.zeros_like(images)

    def classify(params, images):
        jax.debug.callback(lambda x: seen.update(composites=np.asarray(x)), images)
        return images.mean((1, 2))

    from cfx_jax import Classifier, Generator

    problem = make_problem(jax.random.key(0), jnp.ones((16, 16, 3)), Question(1), "sdr")
    objective.relaxed_objective(
        jnp.zeros((8, 8)),
        jnp.asarray(0),
        problem,
        Classifier(params=(), apply=classify),
        Generator(params=(), apply=fill),
        MODES["paper"],
    )
    jax.effects_barrier()
    assert set(np.unique(seen["holes"])) == {0.0, 1.0}
    soft = seen["composites"][..., :1]  # white image, black in-fill: the composite is the mask
    assert ((soft > 0.01) & (soft < 0.99)).any()
    np.testing.assert_array_equal(np.round(soft), seen["holes"])


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (15, 0.5), (30, 1.0), (31, 1.0)])
@pytest.mark.parametrize("name", ["ssr", "sdr"])
def test_penalty_warms_up_linearly(step, weight, name, linear_classifier, fill_half, images):
    problem = make_problem(jax.random.key(0), images[0], Question(1), name)
    settings = get_settings("paper", tv_weight=0.5)
    cells = jax.random.normal(jax.random.key(5), (8, 8))
    loss, value = objective.relaxed_objective(
        cells,
        jnp.asarray(step),
        problem,
        linear_classifier(np.zeros((16, 16, 3))),
        fill_half,
        settings,
    )
    pixels = settings.mask_law.keep_map(cells, (16, 16))
    cost = objective.penalty(pixels, problem.direction, settings)
    np.testing.assert_allclose(loss, weight * cost, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(value.objective, cost, rtol=1e-5)


@pytest.mark.parametrize(("name", "charged"), [("ssr", "keep"), ("sdr", "drop")])
def test_penalty_sums_over_the_pixels_of_the_image(name, charged):
    cells = jax.random.normal(jax.random.key(5), (7, 7))
    settings = get_settings("paper", tv_weight=0.25)
    pixels = settings.mask_law.keep_map(cells, (21, 28))
    places = np.meshgrid(np.linspace(0, 6, 21), np.linspace(0, 6, 28), indexing="ij")
    keep = ndimage.map_coordinates(expit(np.asarray(cells, float)), places, order=1)
    area = {"keep": keep, "drop": 1 - keep}[charged].sum()
    tv = np.square(np.diff(keep, axis=0)).sum() + np.square(np.diff(keep, axis=1)).sum()
    problem = make_problem(jax.random.key(0), jnp.zeros((21, 28, 3)), Question(0), name)
    np.testing.assert_allclose(
        objective.penalty(pixels, problem.direction, settings), 1e-3 * area + 0.25 * tv, rtol=1e-5
    )


@pytest.mark.parametrize("name", ["ssr", "sdr"])
@pytest.mark.parametrize("mode", ["paper", "bbmp"])
def test_relaxed_objective_gradient_equals_finite_differences(
    name, mode, random_classifier, fill_half, images
):
    """In float64, so that differences resolve the gradient; hard holes do not move the constant."""
    with jax.enable_x64(True):

        def to64(tree):
            return jax.tree.map(
                lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree
            )

        problem = to64(make_problem(jax.random.key(0), images[1], Question(2), name))
        models = to64(random_classifier), to64(fill_half)
        settings = get_settings(mode, tv_weight=0.1)
        cells = 0.3 + 0.4 * jax.random.uniform(jax.random.key(1), (6, 6), jnp.float64)

        @jax.jit
        def loss(cells):
            step = jnp.asarray(40)
            return objective.relaxed_objective(cells, step, problem, *models, settings)[0]

        gradient = jax.grad(loss)(cells)
        rng = np.random.default_rng(0)
        for _ in range(5):
            direction = jnp.asarray(rng.normal(size=(6, 6)))
            numeric = (loss(cells + 1e-6 * direction) - loss(cells - 1e-6 * direction)) / 2e-6
            np.testing.assert_allclose(jnp.vdot(gradient, direction), numeric, rtol=1e-4)


def test_classify_infilled_replaces_the_convolutions_of_any_classifier(monkeypatch, fill_half):
    """A module of another library; its logits stay the same."""
    shapes, convolve = [], fast_convolution.convolve

    def record(images, *arguments):
        shapes.append(images.shape)
        return convolve(images, *arguments)

    monkeypatch.setattr(fast_convolution, "convolve", record)

    class Network(nn.Module):
        @nn.compact
        def __call__(self, images):
            return nn.Dense(3)(nn.relu(nn.Conv(5, (3, 3))(images)).mean((1, 2)))

    module, image = Network(), jax.random.uniform(jax.random.key(1), (8, 8, 3))
    classifier = Classifier(module.init(jax.random.key(0), image[None]), module.apply)
    problem = make_problem(jax.random.key(0), image, Question(1), "ssr")
    masks = jnp.ones((2, 8, 8, 1)).at[1, :4].set(0.0)
    models = classifier, fill_half
    composites, logits = classify_infilled(problem, masks, masks, problem.key, *models)
    assert shapes == [(2, 8, 8, 3)]
    np.testing.assert_allclose(logits, module.apply(classifier.params, composites), atol=1e-5)


@pytest.mark.parametrize(("logits", "expected"), [([2.0, 5.0, 4.0], 1.0), ([2.0, 1.0, 4.0], -3.0)])
def test_logit_margin_is_the_lead_over_the_next_class(logits, expected):
    assert float(logit_margin(jnp.asarray(logits), 1)) == expected
    rows = jnp.asarray([logits, logits])
    np.testing.assert_array_equal(logit_margin(rows, jnp.asarray([[1], [1]])), [expected] * 2)


@pytest.mark.parametrize(
    ("name", "logit_margin", "expected"),
    [
        ("ssr", 5.0, 0.0),
        ("ssr", 1.5, -0.5),
        ("ssr", -1.0, -3.0),
        ("sdr", -5.0, 0.0),
        ("sdr", 1.0, -3.0),
    ],
)
def test_evidence_is_capped_at_the_margin(name, logit_margin, expected, images):
    problem = make_problem(jax.random.key(0), images[0], Question(1), name)
    logits = jnp.asarray([[0.0, logit_margin]])
    found = objective.evidence(logits, problem, SOFTMAX, get_settings("paper", margin_cap=2.0))
    np.testing.assert_allclose(found, [expected])
    without = objective.evidence(logits, problem, SOFTMAX, get_settings("paper"))
    np.testing.assert_allclose(
        without, [logit_margin if name == "ssr" else -logit_margin], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "logit_margin", "expected"),
    [("ssr", 1.0, True), ("ssr", -1.0, False), ("sdr", 1.0, False), ("sdr", -1.0, True)],
)
def test_succeeds_when_the_decision_is_kept_or_changed(name, logit_margin, expected, images):
    problem = make_problem(jax.random.key(0), images[0], Question(1), name)
    assert (
        bool(objective.succeeds(jnp.asarray([[0.0, logit_margin]]), problem, SOFTMAX)[0])
        == expected
    )


def test_perimeter_of_a_square_and_of_a_slope():
    square = np.zeros((20, 30), np.float32)
    square[4:14, 6:16] = 1.0
    # Ten pixels along each side; at the one corner that has both slopes they are one, sqrt(2).
    assert float(objective.perimeter(jnp.asarray(square))) == pytest.approx(
        38 + math.sqrt(2), abs=0.1
    )
    slope = np.broadcast_to(np.linspace(0, 1, 30), (20, 30)).astype(np.float32)
    # Each of its level sets ends with a column of pixels.
    assert float(objective.perimeter(jnp.asarray(slope))) == pytest.approx(20, abs=0.1)


@pytest.mark.parametrize("name", ["ssr", "sdr"])
def test_penalty_charges_the_boundary_like_area(name, images):
    problem = make_problem(jax.random.key(0), images[0], Question(1), name)
    settings = get_settings("paper", perimeter_weight=1 / 7)
    pixels = settings.mask_law.keep_map(jax.random.normal(jax.random.key(5), (7, 7)), (21, 28))
    area = pixels.keep.sum() if name == "ssr" else pixels.drop.sum()
    expected = 0.5 * (area + 3.0 * objective.perimeter(pixels.keep))
    found = objective.penalty(pixels, problem.direction, settings, jnp.asarray(0.5))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_perimeter_gradient_of_a_flat_map_is_finite():
    gradient = jax.grad(objective.perimeter)(jnp.full((5, 5), 0.5))
    np.testing.assert_array_equal(gradient, 0.0)

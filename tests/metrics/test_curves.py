"""Curves on models with analytic answers: a classifier that adds up pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import cfx_jax
from cfx_jax.fido.question import Question
from cfx_jax.metrics import curves

KEY = jax.random.key(0)
SIZE = 8
WEIGHTS = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float32)


@pytest.fixture
def additive(linear_classifier):
    """Log-odds of class 1: the sum of the weights of the white pixels."""
    return linear_classifier(WEIGHTS[..., None])


@pytest.fixture
def black():
    def fill(params, images, mask, key):
        return jnp.zeros_like(images)

    return cfx_jax.Generator(params=(), apply=fill, name="black")


WHITE = jnp.ones((SIZE, SIZE, 1))


def test_deletion_curve_of_an_additive_model_is_a_running_sum(additive, black):
    found = curves.deletion_curve(KEY, additive, black, WHITE, Question(1), WEIGHTS, num_steps=16)
    order = np.sort(WEIGHTS.ravel())[::-1]
    expected = [order[count:].sum() for count in range(0, SIZE**2 + 1, 4)]
    np.testing.assert_allclose(found.log_odds, expected, atol=1e-4)
    np.testing.assert_allclose(found.probability, jax.nn.sigmoid(jnp.asarray(expected)), atol=1e-5)
    assert curves.best_drop(found) == pytest.approx(order[order > 0].sum(), abs=0.5)
    np.testing.assert_allclose(found.shares, np.linspace(1, 0, 17), atol=1e-6)


def test_insertion_curve_of_an_additive_model_is_a_running_sum(additive, black):
    found = curves.insertion_curve(KEY, additive, black, WHITE, Question(1), WEIGHTS, num_steps=64)
    order = np.sort(WEIGHTS.ravel())[::-1]
    np.testing.assert_allclose(found.log_odds, [0, *np.cumsum(order)], atol=1e-4)
    # The best that can be kept leaves out all negative weights.
    assert curves.best_rise(found) == pytest.approx(-order[order < 0].sum(), abs=1e-4)


def test_curve_area_is_better_for_a_better_map(additive, black):
    question = Question(1)
    areas = [
        [
            curves.curve_area(draw(KEY, additive, black, WHITE, question, importance).probability)
            for importance in (WEIGHTS, 0 * WEIGHTS, -WEIGHTS)
        ]
        for draw in (curves.deletion_curve, curves.insertion_curve)
    ]
    assert areas[0] == sorted(areas[0])
    assert areas[1] == sorted(areas[1], reverse=True)


def test_curve_area_is_that_of_the_trapezoids():
    probability = [[0.8, 0.4, 0.0], [0.3, 0.3, 0.3], [1.0, 0.0, 0.0]]
    np.testing.assert_allclose(curves.curve_area(np.asarray(probability)), [0.4, 0.3, 0.25])


def test_curves_map_over_images(additive, black):
    images = jnp.stack([WHITE, 0.5 * WHITE])
    one = functools.partial(curves.deletion_curve, num_steps=4)
    maps = jnp.stack([WEIGHTS, -WEIGHTS])
    keys = jax.random.split(KEY, 2)
    both = jax.jit(jax.vmap(one, in_axes=(0, None, None, 0, 0, 0)))(
        keys, additive, black, images, Question(jnp.asarray([1, 0])), maps
    )
    for index in range(2):
        question = Question([1, 0][index])
        alone = one(keys[index], additive, black, images[index], question, maps[index])
        for found, expected in zip(both, alone, strict=True):
            np.testing.assert_allclose(found[index], expected, atol=1e-5)


def read_log_sum(params, images):
    """Three logits that depend on the mean of the crop alone."""
    mean = images.mean((1, 2, 3))
    return jnp.stack([jnp.zeros_like(mean), 3 * mean, -mean], axis=1)


@pytest.mark.parametrize(
    ("box", "area", "pixels"),
    [
        ([0, 0, 8, 8], 1.0, slice(0, 8)),
        ([0, 4, 8, 8], 0.5, slice(4, 8)),
        ([-5, 4, 50, 60], 0.5, slice(4, 8)),  # Clamped to the picture.
        ([0, 0, 0, 0], 1.0, slice(0, 8)),  # Nothing was found: the whole picture.
        ([0, 7, 2, 8], 0.05, slice(7, 8)),  # Smaller boxes are not rewarded further.
    ],
)
def test_crop_metric_known_answers(box, area, pixels):
    image = jnp.broadcast_to(jnp.linspace(0, 1, 8)[:, None, None], (8, 8, 1))
    classifier = cfx_jax.Classifier(params=(), apply=read_log_sum)
    found = curves.crop_metric(classifier, image, Question(1), jnp.asarray(box))
    logits = read_log_sum((), image[None, pixels])[0]
    expected = np.log(area) - jax.nn.log_softmax(logits)[1]
    assert found == pytest.approx(float(expected), abs=0.02)


def test_crop_metric_crops_like_pillow():
    """The tolerance is the difference between the two kernels."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    image = np.asarray(small.resize((32, 32), Image.Resampling.BICUBIC), np.float32) / 255
    box = (5, 8, 21, 28)
    whole = Image.fromarray(np.round(255 * image).astype(np.uint8))
    expected = whole.resize((32, 32), Image.Resampling.BICUBIC, box=box)
    seen = []

    def remember(params, images):
        seen.append(images)
        return jnp.zeros((1, 2))

    curves.crop_metric(
        cfx_jax.Classifier((), remember), jnp.asarray(image), Question(0), jnp.asarray(box)
    )
    np.testing.assert_allclose(seen[0][0], np.asarray(expected) / 255.0, atol=0.05)
    assert np.abs(seen[0][0] - np.asarray(expected) / 255.0).mean() < 0.01

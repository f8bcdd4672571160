"""Masks with in-fills and classifiers they were not learnt with: answers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax.evaluate._transfer import evaluate_region, transfer_to_classifiers, transfer_to_infills
from cfx_jax.fido.masks import MaskLaw, Relaxation
from cfx_jax.fido.objective import make_problem
from cfx_jax.fido.question import Question

SIZE = 8
LAW = MaskLaw(Relaxation.CONCRETE)


@pytest.fixture
def looks_at(linear_classifier):
    """Makes a classifier of the pixels `where`, a slice of rows and columns.

    It predicts class 1 while more than `share` of them are white; negative: while less are.
    """

    def make(where, share):
        weights = np.zeros((SIZE, SIZE, 1), np.float32)
        weights[where] = np.sign(share)
        limit = share * np.abs(weights).sum()
        inner = linear_classifier(weights)
        return inner.replace(apply=lambda p, x: inner.apply(p, x) - jnp.asarray([0.0, limit]))

    return make


@pytest.fixture
def problem():
    """Makes the problem of class 1 of a white image."""

    def make(objective):
        return make_problem(jax.random.key(5), jnp.ones((SIZE, SIZE, 1)), Question(1), objective)

    return make


@pytest.fixture
def black(fill_half):
    return fill_half.replace(params=jnp.asarray(0.0))


LEFT, RIGHT = np.s_[:, : SIZE // 2], np.s_[:, SIZE // 2 :]


def keep_left():
    """Returns cells whose left half is always kept and whose right half is always dropped."""
    return jnp.where(jnp.arange(SIZE) < SIZE // 2, 99.0, -99.0) * jnp.ones((SIZE, 1))


@pytest.mark.parametrize("objective", ["ssr", "sdr"])
def test_transfer_to_classifiers_succeeds_on_the_region_kept(objective, looks_at, problem, black):
    pixels = LAW.keep_map(keep_left(), (SIZE, SIZE))
    classifiers = [looks_at(LEFT, 0.9), looks_at(RIGHT, 0.9)]
    found = transfer_to_classifiers(problem(objective), pixels, classifiers, black, LAW)
    np.testing.assert_array_equal(found, [1.0, 0.0] if objective == "ssr" else [0.0, 1.0])


def test_transfer_to_the_same_classifier_changes_nothing(looks_at, problem, black):
    """Each of 64 pixels is kept with probability 1/2: only some masks keep more than half."""
    pixels = LAW.keep_map(jnp.zeros((2, 2)), (SIZE, SIZE))
    same = looks_at(np.s_[:], 0.5)
    for objective in ("ssr", "sdr"):
        problems = problem(objective)
        _, (own,) = transfer_to_infills(problems, pixels, same, [black], LAW, num_masks=32)
        (held,) = transfer_to_classifiers(problems, pixels, [same], black, LAW)
        assert held == own
        assert 0 < own < 1


def test_transfer_ignores_a_classifier_wrong_on_the_image(looks_at, problem, black):
    """The classifier predicts class 0 for white, and would predict class 1 for black."""
    pixels = LAW.keep_map(keep_left(), (SIZE, SIZE))
    wrong, right = looks_at(np.s_[:], -0.9), looks_at(LEFT, 0.9)
    for objective, holds in (("ssr", 1.0), ("sdr", 0.0)):
        found = transfer_to_classifiers(problem(objective), pixels, [wrong, right], black, LAW)
        np.testing.assert_array_equal(found, [np.nan, holds])


@pytest.mark.parametrize("objective", ["ssr", "sdr"])
def test_evaluate_region_keeps_with_ssr_and_drops_with_sdr(objective, looks_at, problem, black):
    region = jnp.zeros((SIZE, SIZE), bool).at[LEFT].set(True)
    own, *others = evaluate_region(
        problem(objective), region, looks_at(LEFT, 0.9),
        [looks_at(RIGHT, 0.9), looks_at(np.s_[:], 0.9), looks_at(LEFT, -0.9)], black,
    )  # fmt: skip
    assert own == 1.0
    expected = [0.0, 0.0, np.nan] if objective == "ssr" else [0.0, 1.0, np.nan]
    np.testing.assert_array_equal(others, expected)


def test_evaluate_region_counts_the_explained_classifier_when_wrong(looks_at, problem, black):
    """It misclassifies the image, but predicts the target on the half-black one."""
    region = jnp.zeros((SIZE, SIZE), bool).at[LEFT].set(True)
    found = evaluate_region(problem("ssr"), region, looks_at(np.s_[:], -0.9), [], black)
    np.testing.assert_array_equal(found, [1.0])

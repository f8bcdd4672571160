"""The host loop: the results of `explain`, whole progress, no retrace, no spill from bad images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax import Status
from cfx_jax.explain import _image_keys
from cfx_jax.objective import make_problem
from cfx_jax.settings import get_settings
from cfx_jax.solver import Solver

KEY = jax.random.key(0)
CUT = {"mask_size": 6, "num_steps": 40}
TARGETS = np.asarray([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1])
traced = []  # one entry each time JAX traces the classifier


def linear_apply(params, images):
    traced.append(images.shape)
    return images.reshape(len(images), -1) @ params


@pytest.fixture(scope="module")
def models():
    params = jax.random.normal(jax.random.key(1), (36, 3))
    classifier = cfx_jax.Classifier(params=params, apply=linear_apply)
    return classifier, cfx_jax.load_generator("grey")


@pytest.fixture(scope="module")  # Compiling takes most of the time of this module.
def solver(models):
    """One image a device, on all eight devices."""
    return Solver(*models, get_settings("fast", **CUT), per_device_batch_size=1)


@pytest.fixture
def images():
    return jax.random.uniform(jax.random.key(2), (11, 6, 6, 1))


@pytest.fixture
def problems(images):
    make = functools.partial(make_problem, objective="sdr")
    return jax.vmap(make)(_image_keys(KEY, images), images, TARGETS)


def first(problems, n):
    return jax.tree.map(lambda x: x[:n], problems)


def assert_progress(told, result, num_rows_of_last_batch):
    """All steps of all rows were told, none of the padding, and the objective reached last."""
    assert sum(steps for steps, _ in told) == result.trace.size
    assert np.isfinite(result.trace).all()
    last = result.trace[-num_rows_of_last_batch:, -1].mean()
    assert told[-1][1] == pytest.approx(last)


def test_explains_as_explain_does(solver, models, images, problems):
    expected = cfx_jax.explain(KEY, *models, images, TARGETS, objective="sdr", **CUT)
    found = solver(problems)
    assert np.ptp(found.keep_prob) > 0.5, "something was learnt"
    for leaf, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(leaf, np.ndarray)
        assert leaf.dtype == wanted.dtype
        np.testing.assert_allclose(leaf, wanted, atol=1e-4)


@pytest.mark.parametrize(("n", "num_rows_of_last_batch"), [(1, 1), (8, 8), (11, 3)])
def test_progress_adds_up(n, num_rows_of_last_batch, solver, problems):
    told = []
    result = solver(first(problems, n), lambda *progress: told.append(progress))
    assert len(result.trace) == n
    assert_progress(told, result, num_rows_of_last_batch)


def test_a_prime_number_of_steps_adds_up(models, problems):
    settings = get_settings("bbmp", mask_size=6, num_steps=97)
    solver = Solver(*models, settings, 2, jax.local_devices()[:2])
    traced.clear()
    told = []
    result = solver(first(problems, 5), lambda *progress: told.append(progress))
    assert result.trace.shape == (5, 97)
    assert_progress(told, result, num_rows_of_last_batch=1)
    assert 0 < len(traced) < 8, "traced once a program, not once a step, call or batch"


def test_no_batch_traces_the_classifier_again(solver, problems):
    solver(first(problems, 5))
    traced.clear()
    for n in (5, 1, 8, 11):
        solver(first(problems, n))
    assert not traced


def test_a_broken_image_leaves_the_others_and_the_progress_alone(solver, problems):
    problems = first(problems, 5)
    expected = solver(problems)
    objectives = []
    broken = problems._replace(image=problems.image.at[2, 0, 0, 0].set(jnp.nan))
    found = solver(broken, lambda _, objective: objectives.append(objective))
    assert found.status[2] == Status.NON_FINITE
    sound = [0, 1, 3, 4]
    for leaf, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(leaf[sound], wanted[sound])
    np.testing.assert_allclose(objectives, expected.trace[sound, 4::5].mean(axis=0), rtol=1e-5)


def test_a_batch_of_broken_images_is_solved(solver, problems):
    objectives = []
    broken = problems._replace(image=jnp.full_like(problems.image, jnp.nan))
    result = solver(first(broken, 2), lambda _, objective: objectives.append(objective))
    assert (result.status == Status.NON_FINITE).all()
    assert np.isnan(objectives).all()

"""Steps of the optimisation of one image: their composition, their end and their cost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax.fido.objective import make_problem, relaxed_objective
from cfx_jax.fido.optimisation import (
    adapt_price,
    add_prior,
    advance,
    init,
    is_done,
    make_optimizer,
    warm_start,
)
from cfx_jax.fido.question import Question
from cfx_jax.fido.settings import get_settings
from cfx_jax.fido.solution import finish

KEY = jax.random.key(0)


def test_advance_in_pieces_equals_one_advance(random_classifier, fill_half, images):
    settings = get_settings("fast", mask_size=8, num_steps=12)
    arguments = make_problem(KEY, images[0], Question(1), "ssr"), random_classifier, fill_half
    go = jax.jit(functools.partial(advance, settings=settings), static_argnames="num_steps")
    whole = go(init(settings), *arguments, num_steps=12)
    pieces = init(settings)
    for num_steps in (4, 4, 4):
        pieces = go(pieces, *arguments, num_steps=num_steps)
    np.testing.assert_allclose(pieces.cells, whole.cells, atol=1e-5)
    np.testing.assert_allclose(pieces.trace, whole.trace, atol=1e-4)
    assert int(whole.step) == 12
    e = jax.jit(functools.partial(finish, settings=settings))(whole, *arguments)
    assert e.keep_prob.shape == (8, 8)


def test_step_with_a_nonfinite_gradient_changes_only_the_trace(fill_half, images):
    """The classifier is NaN from the second step on; Adam has a momentum by then."""

    def apply(params, composites):
        score = composites.mean((1, 2, 3)) * params
        return jnp.stack([jnp.zeros_like(score), score], axis=1)

    settings = get_settings("fast", mask_size=8, num_steps=6, warm_start_steps=0)
    problem = make_problem(KEY, images[0], Question(1), "ssr")
    good = cfx_jax.Classifier(params=jnp.asarray(50.0), apply=apply)
    bad = good.replace(params=jnp.asarray(jnp.nan))
    step = functools.partial(advance, settings=settings, num_steps=1)
    before = step(init(settings), problem, good, fill_half)
    after = step(before, problem, bad, fill_half)
    assert float(jnp.abs(before.cells - init(settings).cells).max()) > 0.1
    assert int(after.step) == 2
    np.testing.assert_array_equal(np.isnan(after.trace), [False, True, *[False] * 4])
    kept, expected = (jax.tree.leaves((s.cells, s.optimizer)) for s in (after, before))
    for ours, theirs in zip(kept, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_step_measures_slopes_first_then_moves_in_proportion(random_classifier, fill_half, images):
    settings = get_settings("fast", mask_size=8, num_steps=6, warm_start_steps=3)
    assert settings.num_evaluations == 6
    arguments = make_problem(KEY, images[0], Question(1), "ssr"), random_classifier, fill_half
    step = jax.jit(functools.partial(advance, settings=settings, num_steps=1))

    @jax.jit
    def gradient(t):
        loss = jax.grad(relaxed_objective, has_aux=True)
        return loss(init(settings).cells, t, *arguments, settings)[0]

    states = [init(settings)]
    for _ in range(4):
        states.append(step(states[-1], *arguments))
    for state in states[1:3]:
        np.testing.assert_array_equal(state.cells, states[0].cells)
    # Of the evidence alone: the penalty, which is the same for all cells, sets in afterwards.
    slope = sum(np.asarray(gradient(jnp.int32(t))) for t in range(3))
    assert np.ptp(slope) > 0
    expected = states[0].cells - np.clip(0.7 * slope / slope.std(), -1.5, 1.5)
    np.testing.assert_allclose(states[3].cells, expected, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, states[3].optimizer, states[0].optimizer)
    assert float(jnp.abs(states[4].cells - states[3].cells).max()) > 0.1
    assert int(states[4].optimizer[0].count) == 1
    assert np.all(np.asarray(states[4].trace[:4]) != 0)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_warm_start_does_not_depend_on_the_scale_of_slopes(scale):
    slope = np.array([[1.0, -1.0], [1.0, -1.0]], np.float32)
    np.testing.assert_allclose(
        warm_start(jnp.ones((2, 2)), jnp.asarray(scale * slope)), 1 - 0.7 * slope, rtol=1e-5
    )


def test_warm_start_keeps_the_initial_map_without_slopes():
    np.testing.assert_array_equal(warm_start(jnp.ones((3, 3)), jnp.zeros((3, 3))), np.ones((3, 3)))
    # One cell in a hundred decides: it does not fly off.
    slope = jnp.zeros((10, 10)).at[3, 4].set(-1.0)
    assert float(warm_start(jnp.zeros((10, 10)), slope)[3, 4]) == 1.5


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_add_prior_adds_standardized_gradients_up_to_a_limit(scale):
    cells = jnp.asarray([[4.0, -4.0], [4.0, -4.0]])
    gradients = scale * jnp.asarray([[1.0, 1.0], [-1.0, -1.0]])
    np.testing.assert_allclose(
        add_prior(cells, gradients, 0.5), cells - 0.5 * 4.0 * gradients / scale, rtol=1e-5
    )
    peak = jnp.zeros((10, 10)).at[3, 4].set(-scale)
    noise = jnp.asarray(np.random.default_rng(0).normal(size=(10, 10)), jnp.float32)
    added = add_prior(noise, peak, 1.0) - noise
    np.testing.assert_allclose(added[3, 4], 3.0 * jnp.std(noise), rtol=1e-4)


def test_add_prior_keeps_the_learnt_map_without_gradients_or_weight():
    cells = jnp.asarray([[4.0, -4.0], [1.0, 2.0]])
    np.testing.assert_array_equal(add_prior(cells, jnp.zeros((2, 2)), 0.5), cells)
    np.testing.assert_array_equal(add_prior(cells, jnp.ones((2, 2)), 0.0), cells)


def test_warm_start_of_an_easy_image_is_not_capped(linear_classifier, fill_half):
    """The margin is far above the cap under every mask, so the capped evidence has no gradient."""
    weights = np.zeros((8, 8, 1), np.float32)
    weights[:, :4] = 1.0
    classifier, image = linear_classifier(weights), jnp.ones((8, 8, 1))
    problem = make_problem(jax.random.key(0), image, Question(1), "ssr")
    settings = get_settings("region", mask_size=8, num_steps=8, warm_start_steps=2)
    state = advance(init(settings), problem, classifier, fill_half, settings=settings, num_steps=2)
    # The left half is evidence for the class, the right half is not.
    assert state.cells[:, :3].mean() > 0.5
    assert abs(state.cells[:, 5:].mean()) < 0.1
    # The objective, which is comparable between steps, keeps the cap.
    penalty_of_half = 1e-4 * 224 * 224 / 2
    assert float(state.trace[0]) < 1.2 * penalty_of_half


def test_step_adds_the_penalty_after_the_warm_start(random_classifier, fill_half, images):
    """The loss is minus the evidence at the first learning step; the penalty is added later."""
    arguments = make_problem(KEY, images[0], Question(1), "ssr"), random_classifier, fill_half
    settings = get_settings("fast", mask_size=8, warm_start_steps=5, warmup_steps=4)
    cells = init(settings).cells
    shares = []
    for t in (0, 5, 7, 9, 50):
        loss, value = relaxed_objective(cells, jnp.int32(t), *arguments, settings)
        free = get_settings(
            "fast", mask_size=8, warm_start_steps=5, warmup_steps=4, sparsity_weight=0.0
        )
        gain, _ = relaxed_objective(cells, jnp.int32(t), *arguments, free)
        shares.append(float((loss - gain) / (value.objective - gain)))
    np.testing.assert_allclose(shares, [0.0, 0.0, 0.5, 1.0, 1.0], atol=1e-4)


def test_make_optimizer_decays_the_learning_rate_linearly_to_zero():
    """For a constant gradient Adam's step is exactly its learning rate, here lr (1 - t / T)."""
    optimizer = make_optimizer(get_settings("paper"))
    cells = jnp.zeros((2, 2))
    state, update = optimizer.init(cells), jax.jit(optimizer.update)
    for t in range(300):
        updates, state = update(jnp.full((2, 2), 3.0), state, cells)
        np.testing.assert_allclose(updates, -0.05 * (1 - t / 300), rtol=1e-4, atol=1e-8)


def state_after(trace, settings):
    full = np.zeros(settings.num_steps, np.float32)
    full[: len(trace)] = trace
    return init(settings).replace(step=jnp.int32(len(trace)), trace=jnp.asarray(full))


@pytest.mark.parametrize(
    ("trace", "stops"),
    [
        # Of the last four steps the mean is 0.980 and 0.992 of that of the four before.
        (np.geomspace(1.0, 0.98 ** (9 / 4), 10), False),
        (np.geomspace(1.0, 0.992 ** (9 / 4), 10), True),
        # Below zero, too, and where the objective rises.
        (-np.geomspace(1.0, 1.02 ** (9 / 4), 10), False),
        (np.linspace(1.0, 2.0, 10), True),
        # The first steps, in which the penalty sets in, do not count, and no step before them all.
        (np.r_[9.0, 9.0, np.ones(8)], True),
        (np.r_[1.0, 1.0, np.full(4, 2.0), np.ones(4)], False),
        (np.ones(9), False),
        (np.r_[np.ones(9), np.nan], True),
        ([], False),
    ],
)
def test_is_done_when_the_objective_no_longer_falls(trace, stops):
    settings = get_settings("fast", num_steps=20, warmup_steps=2, warm_start_steps=0, patience=4)
    assert bool(is_done(state_after(trace, settings), settings)) is stops


def test_is_done_counts_patience_after_the_warm_start():
    settings = get_settings("fast", num_steps=20, warmup_steps=2, warm_start_steps=3, patience=4)
    trace = np.ones(20)
    stops = [bool(is_done(state_after(trace[:n], settings), settings)) for n in range(21)]
    assert stops.index(True) == 3 + 2 + 8


def test_is_done_without_patience_only_at_the_last_step():
    settings = get_settings("fast", num_steps=12, warmup_steps=2)
    stops = [bool(is_done(state_after(np.ones(n), settings), settings)) for n in range(13)]
    assert stops == [*[False] * 12, True]


@pytest.mark.parametrize(
    ("success", "factor"), [(1.0, np.exp(0.75 * 0.05)), (0.5, np.exp(-0.75 * 0.45))]
)
def test_adapt_price_follows_success(success, factor):
    settings = get_settings("region", success_target=0.9, sparsity_weight=1e-4)
    price = adapt_price(jnp.asarray(1e-4), jnp.asarray(success), settings)
    np.testing.assert_allclose(price, 1e-4 * factor, rtol=1e-5)


@pytest.mark.parametrize(("success", "end"), [(1.0, 1e-3), (0.0, 5e-6)])
def test_adapt_price_stays_in_bounds(success, end):
    settings = get_settings("region", success_target=0.9, sparsity_weight=1e-4)
    price = jnp.asarray(1e-4)
    for _ in range(200):
        price = adapt_price(price, jnp.asarray(success), settings)
    np.testing.assert_allclose(price, end, rtol=1e-5)


def test_adapt_price_without_a_target_changes_nothing():
    price = jnp.asarray(1e-4)
    assert adapt_price(price, jnp.asarray(1.0), get_settings("fast")) is price

"""Learning the mask of ONE image, step by step: pure functions of arrays.

Call `init`, then `advance` any number of times. A run over a dataset vmaps both, keeps the states
on the devices and advances them by a few steps per call. `cfx_jax.fido.solution.finish` evaluates
the result.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from cfx_jax.classifiers import Classifier
from cfx_jax.fido.objective import Problem, relaxed_objective
from cfx_jax.fido.resampling import average_cells
from cfx_jax.fido.settings import Settings
from cfx_jax.generators import Generator

# Step size of the logarithm of the price, and bounds of the price, in units of `sparsity_weight`.
_PRICE_RATE = 0.75
_PRICE_BOUNDS = (0.05, 10.0)
# Smallest improvement of the mean objective over `patience` steps, as a share of that mean.
_MIN_IMPROVEMENT = 0.01
# Shift of a cell by the warm start, in logits: for a gradient of one standard deviation, and the
# largest one.
_WARM_START_SCALE, _MAX_WARM_START = 0.7, 1.5
# Largest gradient of the prior, in standard deviations.
_MAX_PRIOR = 3.0


@flax.struct.dataclass
class State:
    """State of the optimisation of one image, between two calls of `advance`.

    Attributes:
        cells: float32 `[h, w]`, the learnt parameters, see `cfx_jax.fido.masks`.
        optimizer: state of Adam.
        gradient_sum: float32 `[h, w]`, sum of the gradients of the warm start; None without one.
        price: float32 scalar, lambda of the next step.
        step: int32 scalar, number of steps taken.
        trace: float32 `[num_steps]`, objective of each step at full penalty; 0 for steps not taken.
    """

    cells: jax.Array
    optimizer: Any
    gradient_sum: jax.Array | None
    price: jax.Array
    step: jax.Array
    trace: jax.Array


def init(settings: Settings, problem: Problem | None = None) -> State:
    """Returns the state before the first step.

    Args:
        settings: hyper-parameters of the optimisation.
        problem: the image, if its pixels have relative prices: expensive cells start outside of the
            region, by the logarithm of their mean price. None = all cells start at `initial_keep`.

    Returns:
        The state; without prices it is the same for every image.
    """
    shape = (settings.mask_size, settings.mask_size)
    cells = settings.mask_law.init_cells(settings.initial_keep, shape)
    if problem is not None and problem.prices is not None and settings.mask_law.is_random:
        prices = jnp.where(jnp.isinf(problem.prices), 1.0, problem.prices)
        cells -= problem.direction * jnp.log(average_cells(prices, shape))
    return State(
        cells=cells,
        optimizer=make_optimizer(settings).init(cells),
        gradient_sum=jnp.zeros_like(cells) if settings.warm_start_steps else None,
        price=jnp.asarray(settings.sparsity_weight, jnp.float32),
        step=jnp.zeros((), jnp.int32),
        # Zeros, because NaN would raise an error under JAX_DEBUG_NANS.
        trace=jnp.zeros((settings.num_steps,), jnp.float32),
    )


def advance(
    state: State,
    problem: Problem,
    classifier: Classifier,
    generator: Generator,
    *,
    settings: Settings,
    num_steps: int,
) -> State:
    """Takes optimiser steps on one image, in one compiled loop.

    Args:
        state: state from `init` or an earlier `advance`.
        problem: the image and its question.
        classifier: the model to explain.
        generator: fills the holes.
        settings: hyper-parameters, the same in every call for one image.
        num_steps: number of steps to take in this call; fewer are taken if the image is done.

    Returns:
        The state after these steps. A step whose gradient is not finite is counted and sets the
        trace to NaN, but changes no cells; a step of an image that is done (`is_done`) changes
        nothing. The `warm_start_steps` only sum gradients, and the last of them moves the cells,
        see `warm_start`.
    """
    optimizer = make_optimizer(settings)

    def take_step(state: State, _: None) -> tuple[State, None]:
        price = state.price if settings.success_target else None
        (_, value), gradient = jax.value_and_grad(relaxed_objective, has_aux=True)(
            state.cells, state.step, problem, classifier, generator, settings, price
        )
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.cells)
        cells = settings.mask_law.clip(optax.apply_updates(state.cells, updates))
        is_finite, is_active = jnp.all(jnp.isfinite(gradient)), ~is_done(state, settings)
        is_update = is_finite & is_active
        if settings.warm_start_steps:
            is_update &= state.step >= settings.warm_start_steps
        # Without an update, select the old state. Setting the gradient to zero would not suffice:
        # the momentum of Adam would still move the cells.
        cells, optimizer_state = jax.tree.map(
            lambda new, old: jnp.where(is_update, new, old),
            (cells, optimizer_state),
            (state.cells, state.optimizer),
        )
        gradient_sum = state.gradient_sum
        if gradient_sum is not None:
            is_warm_start = is_active & (state.step < settings.warm_start_steps)
            summed = gradient_sum + gradient
            gradient_sum = jnp.where(is_finite & is_warm_start, summed, gradient_sum)
            is_last = is_warm_start & (state.step == settings.warm_start_steps - 1)
            cells = jnp.where(is_last, warm_start(cells, gradient_sum), cells)
        # For an image that is done, the index is beyond the end, where nothing is written.
        index = jnp.where(is_active, state.step, settings.num_steps)
        trace = state.trace.at[index].set(jnp.where(is_finite, value.objective, jnp.nan))
        adapted = adapt_price(state.price, value.success, settings)
        price = jnp.where(is_update, adapted, state.price)
        step = state.step + is_active
        return State(cells, optimizer_state, gradient_sum, price, step, trace), None

    return jax.lax.scan(take_step, state, None, length=num_steps)[0]


def warm_start(cells: jax.Array, gradient_sum: jax.Array) -> jax.Array:
    """Moves cells to their initial values for learning, by the gradients of the first masks.

    Formula: `cells - clip(0.7 g / std(g), -1.5, 1.5)` with g = `gradient_sum`. The first steps of
    Adam have the same length for an irrelevant cell as for a decisive one. The warm start instead
    moves each cell in proportion to its gradient, up to the limit.

    Args:
        cells: float32 `[h, w]`, cells of `init`.
        gradient_sum: float32 `[h, w]`, summed gradients of the evidence; the scale is irrelevant.

    Returns:
        float32 `[h, w]`; unchanged if all gradients are zero.
    """
    moves = _WARM_START_SCALE * _standardize(gradient_sum)
    return cells - jnp.clip(moves, -_MAX_WARM_START, _MAX_WARM_START)


def add_prior(cells: jax.Array, gradient_sum: jax.Array, weight: float) -> jax.Array:
    """Adds the gradients of the warm start to the learnt map, in which the threshold is searched.

    Formula: `cells - weight std(cells) clip(g / std(g), -3, 3)` with g = `gradient_sum`. Where many
    regions suffice, an imperceptible change of the image decides which of them is learnt. The
    gradients, a mean over many masks, change much less.

    Args:
        cells: float32 `[h, w]`, the learnt map, smoothed.
        gradient_sum: float32 `[h, w]`, summed gradients of the evidence; the scale is irrelevant.
        weight: `Settings.prior_weight`.

    Returns:
        float32 `[h, w]`.
    """
    prior = jnp.clip(_standardize(gradient_sum), -_MAX_PRIOR, _MAX_PRIOR)
    return cells - weight * jnp.std(cells) * prior


def _standardize(gradients: jax.Array) -> jax.Array:
    deviation = jnp.std(gradients)
    return gradients / jnp.where(deviation > 0, deviation, 1.0)


def is_done(state: State, settings: Settings) -> jax.Array:
    """Returns whether an image takes no more steps.

    An image is done after `num_steps`. With a `patience` of p, it is also done once the mean
    objective of its last p steps is less than 1 % below that of the p steps before them. This is
    checked from step `warm_start_steps + warmup_steps + 2 p` on. The result depends only on the
    trace of this image, not on other images.

    Args:
        state: state of one image.
        settings: settings of its optimisation.

    Returns:
        bool scalar.
    """
    done = state.step >= settings.num_steps
    if not (window := settings.patience):
        return done
    start = jnp.maximum(state.step - 2 * window, 0)
    before, after = (
        jnp.mean(jax.lax.dynamic_slice(state.trace, (start + shift,), (window,)))
        for shift in (0, window)
    )
    # With a step that is not finite, the mean is not finite either, and the image stops.
    improves = before - after > _MIN_IMPROVEMENT * jnp.abs(before)
    return done | ((state.step >= settings.first_stopping_step) & ~improves)


def adapt_price(price: jax.Array, success: jax.Array, settings: Settings) -> jax.Array:
    """Raises lambda of an image while its masks succeed, and lowers it while they do not.

    Formula: `log lambda += 0.75 (success - (1 + r) / 2)` for the success target r, where lambda
    stays between 1/20 and 10 times `sparsity_weight`. This is dual ascent. It aims at `(1 + r) / 2`
    instead of r, because the share of successes among a few masks is a coarse estimate.

    Args:
        price: float32 scalar, lambda of the step.
        success: float32 scalar, share of its masks that keep (SSR) or flip (SDR) the prediction.
        settings: provides the initial price and the target; without a target the price is constant.

    Returns:
        float32 scalar, lambda of the next step.
    """
    if not settings.success_target:
        return price
    aim = (1.0 + settings.success_target) / 2.0
    lowest, highest = (scale * settings.sparsity_weight for scale in _PRICE_BOUNDS)
    return jnp.clip(price * jnp.exp(_PRICE_RATE * (success - aim)), lowest, highest)


def make_optimizer(settings: Settings) -> optax.GradientTransformation:
    """Returns Adam with a learning rate that falls linearly to zero after the warm start."""
    num_updates = settings.num_steps - settings.warm_start_steps
    return optax.adam(optax.linear_schedule(settings.learning_rate, 0.0, num_updates))

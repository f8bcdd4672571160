"""Learning the mask of ONE image, step by step: pure functions of arrays.

`init`, then `advance` any number of times; a long run vmaps them, keeps the states on the devices
and advances them in small pieces. `cfx_jax.fido.api` judges and packs what is learnt.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from cfx_jax.classifiers import Classifier
from cfx_jax.fido.objective import Problem, relaxed_objective
from cfx_jax.fido.settings import Settings
from cfx_jax.generators import Generator

# Of the change of the logarithm of the price in a step, and how far it may go from the start.
_PRICE_RATE = 0.75
_PRICES = (0.05, 10.0)
# Of the objective over `patience` steps, as a share of it.
_MIN_IMPROVEMENT = 0.01
# Where cells begin after a look, in logits: for a slope of one standard deviation, and at most.
_WARM_START_SCALE, _MAX_WARM_START = 0.7, 1.5


@flax.struct.dataclass
class State:
    """The optimisation of one image, between two calls of `advance`.

    Attributes:
        cells: float32 `[h, w]`, what Adam moves, see `cfx_jax.fido.masks`.
        optimizer: state of Adam.
        gradient_sum: float32 `[h, w]`, sum of the gradients of the warm start; None without one.
        price: float32 scalar, lambda of the next step.
        step: int32 scalar, steps taken.
        trace: float32 `[num_steps]`, objective of each step taken at full penalty, 0 beyond.
    """

    cells: jax.Array
    optimizer: Any
    gradient_sum: jax.Array | None
    price: jax.Array
    step: jax.Array
    trace: jax.Array


def init(settings: Settings) -> State:
    """Returns the state of an image before the first step; it does not depend on the image."""
    cells = settings.mask_law.start(settings.initial_keep, (settings.mask_size, settings.mask_size))
    return State(
        cells=cells,
        optimizer=make_optimizer(settings).init(cells),
        gradient_sum=jnp.zeros_like(cells) if settings.warm_start_steps else None,
        price=jnp.asarray(settings.sparsity_weight, jnp.float32),
        step=jnp.zeros((), jnp.int32),
        # Not NaN, for which JAX looks under JAX_DEBUG_NANS.
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
        state: from `init` or an earlier `advance`.
        problem: the image and what is asked of it.
        classifier: the model to explain.
        generator: fills the holes.
        settings: the same in every call for one image.
        num_steps: steps to take now, unless the image is done before.

    Returns:
        The state after them. A step whose gradient is not finite changes nothing but the trace, and
        of an image that is done (`is_done`) a step changes nothing at all. The `warm_start_steps`
        only sum gradients, and the last of them moves the cells, see `warm_start`.
    """
    optimizer = make_optimizer(settings)

    def step(state: State, _: None) -> tuple[State, None]:
        price = state.price if settings.success_target else None
        (_, value), gradient = jax.value_and_grad(relaxed_objective, has_aux=True)(
            state.cells, state.step, problem, classifier, generator, settings, price
        )
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.cells)
        cells = settings.mask_law.confine(optax.apply_updates(state.cells, updates))
        finite, goes_on = jnp.all(jnp.isfinite(gradient)), ~is_done(state, settings)
        moves = finite & goes_on
        if settings.warm_start_steps:
            moves &= state.step >= settings.warm_start_steps
        # Not a gradient of zeros: the momentum of Adam would move the cells all the same.
        cells, optimizer_state = jax.tree.map(
            lambda new, old: jnp.where(moves, new, old),
            (cells, optimizer_state),
            (state.cells, state.optimizer),
        )
        gradient_sum = state.gradient_sum
        if gradient_sum is not None:
            is_look = goes_on & (state.step < settings.warm_start_steps)
            gradient_sum = jnp.where(finite & is_look, gradient_sum + gradient, gradient_sum)
            is_last = is_look & (state.step == settings.warm_start_steps - 1)
            cells = jnp.where(is_last, warm_start(cells, gradient_sum), cells)
        # Beyond the end, where nothing is written, for an image that is done.
        place = jnp.where(goes_on, state.step, settings.num_steps)
        trace = state.trace.at[place].set(jnp.where(finite, value.objective, jnp.nan))
        price = jnp.where(moves, adapt_price(state.price, value.success, settings), state.price)
        return State(cells, optimizer_state, gradient_sum, price, state.step + goes_on, trace), None

    return jax.lax.scan(step, state, None, length=num_steps)[0]


def warm_start(cells: jax.Array, gradient_sum: jax.Array) -> jax.Array:
    """Moves cells to where learning begins, by the gradients of the first masks.

    Formula: `cells - clip(0.7 slope / std(slope), -1.5, 1.5)`. Adam's own first steps are as long
    for a cell that does nothing as for one that decides; these are in proportion.

    Args:
        cells: float32 `[h, w]`, of `init`.
        gradient_sum: float32 `[h, w]`, summed gradients of the evidence; the scale is irrelevant.

    Returns:
        float32 `[h, w]`; `cells` where no mask has made a difference.
    """
    deviation = jnp.std(gradient_sum)
    moves = _WARM_START_SCALE * gradient_sum / jnp.where(deviation > 0, deviation, 1.0)
    return cells - jnp.clip(moves, -_MAX_WARM_START, _MAX_WARM_START)


def is_done(state: State, settings: Settings) -> jax.Array:
    """Tells whether an image takes no more steps.

    That is after `num_steps`, and with a `patience` of p once the mean objective of the last p
    steps is not below that of the p before them by a hundredth of its size, from step
    `warm_start_steps + warmup_steps + 2 p` on. It depends on the trace of this image alone.

    Args:
        state: of one image.
        settings: of its optimisation.

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
    # Where a step was not finite, neither is the mean, and nothing is to be hoped for.
    falls = before - after > _MIN_IMPROVEMENT * jnp.abs(before)
    return done | ((state.step >= settings.first_stopping_step) & ~falls)


def adapt_price(price: jax.Array, success: jax.Array, settings: Settings) -> jax.Array:
    """Raises lambda of an image while its masks do what is asked, lowers it while they do not.

    Formula: `log lambda += 0.75 (success - (1 + tau) / 2)` for the target tau, between a twentieth
    of the price of the settings and ten times it: dual ascent, aimed beyond the target because the
    share among a few masks is a coarse measure of it.

    Args:
        price: float32 scalar, lambda of the step.
        success: float32 scalar, share of its masks that do what is asked.
        settings: the price at the start, and the target; without one the price stays.

    Returns:
        float32 scalar, lambda of the next step.
    """
    if not settings.success_target:
        return price
    aim = (1.0 + settings.success_target) / 2.0
    lowest, highest = (scale * settings.sparsity_weight for scale in _PRICES)
    return jnp.clip(price * jnp.exp(_PRICE_RATE * (success - aim)), lowest, highest)


def make_optimizer(settings: Settings) -> optax.GradientTransformation:
    """Returns Adam with a learning rate that falls linearly to zero over the steps that move."""
    moving = settings.num_steps - settings.warm_start_steps
    return optax.adam(optax.linear_schedule(settings.learning_rate, 0.0, moving))

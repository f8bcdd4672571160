"""Explaining images: `init`, `advance`, `finish` for ONE image, and the public `explain`.

An image is optimised by `init` -> `advance` (any number of times) -> `finish`, all pure functions
of arrays. `explain` runs them vmapped over a batch; a long run keeps the states on the devices and
calls `advance` in small pieces, so that it can show progress in between.

Arrays: images float32 `[N, H, W, C]` in [0, 1]; masks have 1 = KEEP, 0 = in-fill.
"""

import enum
import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from cfx_jax import checks
from cfx_jax.classifiers import Classifier
from cfx_jax.generators import Generator
from cfx_jax.objective import (
    SDR,
    SSR,
    KeepMap,
    Problem,
    infill,
    keep_map,
    log_odds,
    penalty,
    relaxed_objective,
    upsample,
)
from cfx_jax.settings import Relaxation, Settings, get_settings

DIRECTIONS = {"ssr": SSR, "sdr": SDR}
NUM_HARD_MASKS = 32
"""Hard masks drawn by `finish` to judge the learnt distribution."""


class Status(enum.IntEnum):
    """What became of one explanation.

    OK: most hard masks drawn from the learnt distribution do what was asked of them.
    MISCLASSIFIED: the classifier does not predict the target on the original image.
    NOT_FLIPPED: SDR, and most in-filled images are still classified as the target.
    NOT_PRESERVED: SSR, and most in-filled images are not classified as the target.
    NON_FINITE: the image, a logit or a gradient was not finite; the results are NaN.
    UNREADABLE: the image could not be decoded; set by a dataset run, nothing was computed.
    """

    OK = 0
    MISCLASSIFIED = 1
    NOT_FLIPPED = 2
    NOT_PRESERVED = 3
    NON_FINITE = 4
    UNREADABLE = 5


@flax.struct.dataclass
class State:
    """The optimisation of one image, between two calls of `advance`.

    Attributes:
        cells: float32 `[h, w]`, what Adam moves: logits of keeping a cell, or, for the
            deterministic relaxation, the mask itself in [0, 1].
        optimizer: state of Adam.
        step: int32 scalar, steps taken.
        trace: float32 `[num_steps]`, objective of each step taken at full penalty, NaN beyond.
    """

    cells: jax.Array
    optimizer: Any
    step: jax.Array
    trace: jax.Array


@flax.struct.dataclass
class Explanation:
    """What was learnt; `explain` returns each field with a leading axis N.

    Attributes:
        keep_prob: float32 `[h, w]`, probability of KEEPING each mask cell.
        saliency: float32 `[H, W]` in [0, 1], larger = more important, for SSR and for SDR.
        infilled: float32 `[H, W, C]`, the image under one hard mask drawn from the learnt
            distribution, in-filled.
        status: int32, a `Status`.
        target: int32, the class explained.
        prediction: int32, the class predicted on the original image.
        log_odds_original: float32, of the target on the original image.
        log_odds_infilled: float32, mean over 32 in-filled images, one for each hard mask drawn.
        kept_area: float32 in [0, 1], expected share of pixels kept.
        success_rate: float32 in [0, 1], share of those 32 that do what was asked: keep the
            prediction at the target (SSR) or move it away (SDR).
        objective: float32, `penalty - direction * log_odds_infilled`, at full penalty.
        trace: float32 `[num_steps]`, objective of each step with the relaxed masks, full penalty.
    """

    keep_prob: jax.Array
    saliency: jax.Array
    infilled: jax.Array
    status: jax.Array
    target: jax.Array
    prediction: jax.Array
    log_odds_original: jax.Array
    log_odds_infilled: jax.Array
    kept_area: jax.Array
    success_rate: jax.Array
    objective: jax.Array
    trace: jax.Array


def init(settings: Settings) -> State:
    """Returns the state of an image before the first step; it does not depend on the image."""
    shape = (settings.mask_size, settings.mask_size)
    if settings.relaxation is Relaxation.DETERMINISTIC:
        cells = jnp.full(shape, settings.initial_keep)
    else:
        cells = jnp.full(shape, jax.scipy.special.logit(settings.initial_keep))
    return State(
        cells=cells,
        optimizer=make_optimizer(settings).init(cells),
        step=jnp.zeros((), jnp.int32),
        trace=jnp.full((settings.num_steps,), jnp.nan),
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
        num_steps: steps to take now; the calls add up to `settings.num_steps`.

    Returns:
        The state after them. A step whose gradient is not finite changes nothing but the trace.
    """
    optimizer = make_optimizer(settings)

    def step(state: State, _: None) -> tuple[State, None]:
        (_, value), gradient = jax.value_and_grad(relaxed_objective, has_aux=True)(
            state.cells, state.step, problem, classifier, generator, settings
        )
        finite = jnp.all(jnp.isfinite(gradient))
        gradient = jnp.where(finite, gradient, 0.0)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.cells)
        cells = optax.apply_updates(state.cells, updates)
        if settings.relaxation is Relaxation.DETERMINISTIC:
            cells = jnp.clip(cells, 0.0, 1.0)
        value = jnp.where(finite, value, jnp.nan)
        trace = state.trace.at[state.step].set(value)
        return State(cells, optimizer_state, state.step + 1, trace), None

    return jax.lax.scan(step, state, None, length=num_steps)[0]


def finish(
    state: State,
    problem: Problem,
    classifier: Classifier,
    generator: Generator,
    *,
    settings: Settings,
) -> Explanation:
    """Judges the learnt mask with hard masks and packs the result.

    Args:
        state: after its last `advance`.
        problem: the image and what was asked of it.
        classifier: the model explained.
        generator: fills the holes.
        settings: those of `advance`.

    Returns:
        The `Explanation` of one image, without a leading axis.
    """
    height, width = problem.image.shape[:2]
    size = (height, width)
    pixels = keep_map(state.cells, size, settings.relaxation)
    original = classifier.apply(classifier.params, problem.image[None])[0]

    # Beyond the last step's key, so that no noise the mask was fitted to judges it.
    judge_key = jax.random.fold_in(problem.key, settings.num_steps)
    verdict = judge(judge_key, pixels, problem, classifier, generator)
    result = Explanation(
        keep_prob=_keep_prob(state.cells, settings.relaxation),
        saliency=saliency(state.cells, problem.direction, size, settings.relaxation),
        infilled=verdict.infilled,
        status=jnp.zeros((), jnp.int32),
        target=problem.target,
        prediction=jnp.argmax(original).astype(jnp.int32),
        log_odds_original=log_odds(original, problem.target),
        log_odds_infilled=verdict.log_odds,
        kept_area=jnp.mean(pixels.keep),
        success_rate=verdict.success_rate,
        objective=penalty(pixels, problem.direction, settings)
        - problem.direction * verdict.log_odds,
        trace=state.trace,
    )
    return _with_status(result, problem)


class Verdict(NamedTuple):
    """What hard masks drawn from a learnt distribution do.

    Attributes:
        log_odds: float32 scalar, mean log-odds of the target on the in-filled images.
        success_rate: float32 scalar, share of masks that do what was asked.
        infilled: float32 `[H, W, C]`, the image under the first of the masks.
    """

    log_odds: jax.Array
    success_rate: jax.Array
    infilled: jax.Array


def judge(
    key: jax.Array,
    pixels: KeepMap,
    problem: Problem,
    classifier: Classifier,
    generator: Generator,
) -> Verdict:
    """Draws `NUM_HARD_MASKS` hard masks and sees what they do to the classifier.

    Masks are drawn rather than the probability cut at 1/2: a distribution whose samples preserve
    the decision may keep no pixel with more than probability 1/2, and was not optimised to.

    Args:
        key: random key.
        pixels: the mask distribution at the pixels.
        problem: the image and what is asked of it.
        classifier: the model explained.
        generator: fills the holes.

    Returns:
        A `Verdict`.
    """

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        mask_key, fill_key = jax.random.split(key)
        mask = jax.random.bernoulli(mask_key, pixels.keep).astype(jnp.float32)[None, ..., None]
        infilled, logits = infill(problem, mask, mask, fill_key, classifier, generator)
        return infilled[0], logits[0]

    # One after the other, so that memory does not depend on how many there are.
    keys = jax.random.split(key, NUM_HARD_MASKS)
    logits = jax.lax.map(lambda key: one(key)[1], keys)
    success = (jnp.argmax(logits, axis=-1) == problem.target) == (problem.direction == SSR)
    return Verdict(
        log_odds=jnp.mean(log_odds(logits, problem.target)),
        success_rate=jnp.mean(success.astype(jnp.float32)),
        infilled=one(keys[0])[0],
    )


def saliency(
    cells: jax.Array, direction: jax.Array, size: tuple[int, int], relaxation: Relaxation
) -> jax.Array:
    """Maps a learnt mask to importance at the pixels, in [0, 1], larger = more important.

    The LOGIT is upsampled here, not the probability, as in the published code, which then subtracts
    1/2. What SSR keeps is important and what SDR drops.

    Args:
        cells: float32 `[h, w]`, see `State`.
        direction: float32 scalar, `SSR` or `SDR`.
        size: `(H, W)` of the image.
        relaxation: says what `cells` are.

    Returns:
        float32 `[H, W]`.
    """
    pixels = upsample(cells, size)
    keep = (
        jnp.clip(pixels, 0, 1) if relaxation is Relaxation.DETERMINISTIC else jax.nn.sigmoid(pixels)
    )
    return jnp.where(direction == SSR, keep, 1.0 - keep)


def make_problem(
    key: jax.Array, image: jax.Array, target: jax.Array | int, objective: str
) -> Problem:
    """Packs what is asked of one image; the objective is folded into the key of the example.

    Args:
        key: random key of this example.
        image: float32 `[H, W, C]` in [0, 1].
        target: class to explain.
        objective: `"ssr"` or `"sdr"`.

    Returns:
        A `Problem`.
    """
    index = list(DIRECTIONS).index(objective)
    return Problem(
        image=image,
        target=jnp.asarray(target, jnp.int32),
        direction=jnp.asarray(DIRECTIONS[objective]),
        key=jax.random.fold_in(key, index),
    )


def solve(
    problem: Problem, classifier: Classifier, generator: Generator, *, settings: Settings
) -> Explanation:
    """Runs one problem from its first step to its `Explanation`."""
    state = advance(
        init(settings),
        problem,
        classifier,
        generator,
        settings=settings,
        num_steps=settings.num_steps,
    )
    return finish(state, problem, classifier, generator, settings=settings)


def explain_one(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    target: jax.Array | int | None = None,
    *,
    objective: str = "ssr",
    mode: str = "fast",
    **overrides: Any,
) -> Explanation:
    """Explains one image: a plain function of arrays, for your own `jit`, `vmap` or `pmap`.

    Differs from `explain` in that it checks shapes only, never values, and uses `key` as it is:
    give every image a key of its own.

    Args:
        key: random key of this image.
        classifier: the model to explain.
        generator: fills the holes.
        image: float32 `[H, W, C]` in [0, 1].
        target: class to explain; None takes the predicted one.
        objective: `"ssr"` or `"sdr"`.
        mode: `"fast"`, `"paper"` or `"bbmp"`.
        **overrides: fields of `cfx_jax.settings.Settings`.

    Returns:
        An `Explanation` without the leading axis.

    Raises:
        ValueError: a shape, a name or a setting is wrong.

    Example:
        >>> import functools, jax, jax.numpy as jnp, cfx_jax
        >>> classifier = cfx_jax.Classifier(params=(), apply=lambda _, x: x.mean((1, 2)))
        >>> generator = cfx_jax.load_generator("grey")
        >>> explain_red = jax.vmap(functools.partial(
        ...     cfx_jax.explain_one, target=0, num_steps=2, mask_size=4
        ... ), in_axes=(0, None, None, 0))
        >>> keys, images = jax.random.split(jax.random.key(0), 5), jnp.ones((5, 8, 8, 3))
        >>> explain_red(keys, classifier, generator, images).saliency.shape
        (5, 8, 8)
    """
    settings = get_settings(mode, **overrides)
    image = checks.check_problem(classifier, generator, image[None], objective, settings)[0]
    if target is None:
        target = predict(classifier, image[None])[0]
    problem = make_problem(key, image, target, objective)
    return solve(problem, classifier, generator, settings=settings)


def explain(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    images: jax.Array,
    targets: jax.Array | None = None,
    *,
    objective: str = "ssr",
    mode: str = "fast",
    **overrides: Any,
) -> Explanation:
    """Explains a batch of images.

    The key of an image is folded from `key`, the pixels of the image and the objective, never from
    its place: the same image gives the same mask alone, in any batch and in any order.

    Args:
        key: random key of the run.
        classifier: the model to explain.
        generator: fills the holes.
        images: float32 `[N, H, W, C]`, RGB in [0, 1]. All are optimised at once: memory grows with
            N x `num_samples`, about 90 MB for one EfficientNet-Lite0 image in mode fast.
        targets: int `[N]`, classes to explain; None takes the predicted ones.
        objective: `"ssr"`, the smallest region that supports the decision, or `"sdr"`, the
            smallest whose in-filling changes it.
        mode: `"fast"` (default), `"paper"` (as published) or `"bbmp"` (deterministic mask).
        **overrides: fields of `cfx_jax.settings.Settings`, for example `num_steps=30`.

    Returns:
        An `Explanation` whose fields have a leading axis N. An image that cannot be explained has
        a `Status` other than `OK`; it never stops the others.

    Raises:
        ValueError: an argument has the wrong shape, type or range; the message says which, what was
            expected and what to do.

    Example:
        >>> import jax, jax.numpy as jnp, cfx_jax
        >>> classifier = cfx_jax.Classifier(params=(), apply=lambda _, x: x.mean((1, 2)))
        >>> generator = cfx_jax.load_generator("grey")
        >>> images = jnp.ones((2, 8, 8, 3))
        >>> e = cfx_jax.explain(jax.random.key(0), classifier, generator, images, mask_size=4)
        >>> e.keep_prob.shape, e.saliency.shape
        ((2, 4, 4), (2, 8, 8))
    """
    arguments = (key, classifier, generator, images, targets, mode, overrides)
    return _explain_objectives((objective,), *arguments)[objective]


def explain_both(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    images: jax.Array,
    targets: jax.Array | None = None,
    *,
    mode: str = "fast",
    **overrides: Any,
) -> dict[str, Explanation]:
    """Explains a batch by SSR and SDR in one compiled run.

    Args:
        key: as in `explain`; the masks equal those of two separate calls.
        classifier: as in `explain`.
        generator: as in `explain`.
        images: as in `explain`; memory grows with 2 N.
        targets: as in `explain`.
        mode: as in `explain`.
        **overrides: as in `explain`.

    Returns:
        `{"ssr": Explanation, "sdr": Explanation}`.

    Raises:
        ValueError: as in `explain`.
    """
    arguments = (key, classifier, generator, images, targets, mode, overrides)
    return _explain_objectives(tuple(DIRECTIONS), *arguments)


def _explain_objectives(
    objectives: tuple[str, ...],
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    images: jax.Array,
    targets: jax.Array | None,
    mode: str,
    overrides: dict[str, Any],
) -> dict[str, Explanation]:
    settings = get_settings(mode, **overrides)
    for objective in objectives:
        images = checks.check_problem(classifier, generator, images, objective, settings)
    checks.check_values(classifier, images, targets)
    if targets is None:
        targets = predict(classifier, images)
    keys = _image_keys(key, images)
    problems = [
        jax.vmap(functools.partial(make_problem, objective=o))(keys, images, jnp.asarray(targets))
        for o in objectives
    ]
    stacked = jax.tree.map(lambda *rows: jnp.concatenate(rows), *problems)
    solved = _solve_batch(stacked, classifier, generator, settings=settings)
    n = len(images)
    return {
        o: jax.tree.map(lambda rows, i=i: rows[i * n : (i + 1) * n], solved)
        for i, o in enumerate(objectives)
    }


@functools.partial(jax.jit, static_argnames="settings")
def _solve_batch(
    problems: Problem, classifier: Classifier, generator: Generator, settings: Settings
) -> Explanation:
    one = functools.partial(solve, settings=settings)
    return jax.vmap(one, in_axes=(0, None, None))(problems, classifier, generator)


@jax.jit
def predict(classifier: Classifier, images: jax.Array) -> jax.Array:
    """Returns the predicted class of each image, int32 `[N]`."""
    return jnp.argmax(classifier.apply(classifier.params, images), axis=-1)


@jax.jit
def _image_keys(key: jax.Array, images: jax.Array) -> jax.Array:
    """Folds a checksum of each image's pixels into the key: the identity of an array is itself."""
    bits = jax.lax.bitcast_convert_type(images, jnp.uint32).reshape(len(images), -1)
    # Sums of uint32 wrap around exactly, so the order of the reduction does not matter.
    weights = 2 * jnp.arange(bits.shape[1], dtype=jnp.uint32) + 1
    checksums = jnp.sum(bits * weights, axis=1, dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, checksums)


def make_optimizer(settings: Settings) -> optax.GradientTransformation:
    """Returns Adam with a learning rate that falls linearly to zero over `settings.num_steps`."""
    return optax.adam(optax.linear_schedule(settings.learning_rate, 0.0, settings.num_steps))


def _keep_prob(cells: jax.Array, relaxation: Relaxation) -> jax.Array:
    return cells if relaxation is Relaxation.DETERMINISTIC else jax.nn.sigmoid(cells)


def _with_status(result: Explanation, problem: Problem) -> Explanation:
    """Sets the status, and NaN everywhere when something was not finite."""
    numbers = (problem.image, result.log_odds_original, result.log_odds_infilled, result.trace)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in (*numbers, result.objective)]))
    succeeds = result.success_rate >= 0.5
    status = jnp.select(
        [
            ~finite,
            result.prediction != problem.target,
            (problem.direction == SDR) & ~succeeds,
            (problem.direction == SSR) & ~succeeds,
        ],
        [Status.NON_FINITE, Status.MISCLASSIFIED, Status.NOT_FLIPPED, Status.NOT_PRESERVED],
        Status.OK,
    )

    def blank(leaf: jax.Array) -> jax.Array:
        return jnp.where(finite, leaf, jnp.nan) if leaf.dtype == jnp.float32 else leaf

    return jax.tree.map(blank, result).replace(status=status.astype(jnp.int32))

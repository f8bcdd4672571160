"""Explaining images: `finish`, which evaluates ONE learnt mask, and the public `explain`.

An image is explained by `init` -> `advance` (any number of times) of `cfx_jax.fido.optimisation`,
then `finish`, all pure functions of arrays. `explain` runs them vmapped over a batch.

Arrays: images float32 `[N, H, W, C]` in [0, 1]; masks have 1 = KEEP, 0 = in-fill.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax import classifiers
from cfx_jax.classifiers import Classifier
from cfx_jax.fido import checks
from cfx_jax.fido.batch import make_question, predict, prepare
from cfx_jax.fido.explanation import (
    MAJORITY,
    Explanation,
    assign_status,
    find_top,
    saliency,
)
from cfx_jax.fido.hard_masks import evaluate_hard_masks, search_and_evaluate
from cfx_jax.fido.masks import smooth_cells
from cfx_jax.fido.objective import (
    DIRECTIONS,
    Problem,
    evidence,
    make_problem,
    noise_key,
    penalty,
)
from cfx_jax.fido.optimisation import State, advance, init, is_done
from cfx_jax.fido.question import Question, Score
from cfx_jax.fido.settings import Settings, get_settings
from cfx_jax.fido.threshold import start_search
from cfx_jax.generators import Generator, check_fills


def finish(
    state: State,
    problem: Problem,
    classifier: Classifier,
    generator: Generator,
    *,
    settings: Settings,
) -> Explanation:
    """Evaluates the learnt mask with hard masks and packs the result.

    Args:
        state: optimisation state after the last `advance`.
        problem: the image and its question.
        classifier: the model to explain.
        generator: fills the holes.
        settings: the settings that were passed to `advance`.

    Returns:
        The `Explanation` of one image, without a leading axis.
    """
    height, width = problem.image.shape[:2]
    size, law, task = (height, width), settings.mask_law, (problem, classifier, generator)
    # Keys beyond the last step, so that the mask is not evaluated with the noise of learning.
    keys = problem.key, noise_key(problem, settings), problem.key
    evaluation_key, search_key, full_infill_key = (
        jax.random.fold_in(key, settings.num_steps + offset) for offset, key in enumerate(keys)
    )
    cells = smooth_cells(state.cells, settings.smoothing)
    original = classifier.apply(classifier.params, problem.image[None])[0]
    question = problem.question
    if settings.success_target:
        logit_margin = question.logit_margin(original, classifier)
        search = start_search(cells, problem.direction, logit_margin, settings)
        cells, evaluation = search_and_evaluate(
            search_key, evaluation_key, search, *task, law=law, full_infill_key=full_infill_key
        )
        pixels = law.keep_map(cells, size)
    else:
        pixels = law.keep_map(cells, size)
        evaluation = evaluate_hard_masks(
            evaluation_key,
            pixels,
            *task,
            law=law,
            full_infill_key=full_infill_key,
            max_chunk_size=settings.num_samples,
        )
    top_classes, top_before, top_after = find_top(original, evaluation.logits, classifier)
    result = Explanation(
        mask_logits=law.mask_logits(cells),
        keep_prob=law.keep_prob(cells),
        saliency=saliency(cells, problem.direction, size, law),
        infilled=evaluation.infilled,
        status=jnp.zeros((), jnp.int32),
        target=question.target,
        prediction=classifiers.predict(original),
        log_odds_original=question.log_odds(original, classifier),
        log_odds_infilled=evaluation.log_odds,
        kept_area=jnp.mean(pixels.keep),
        success_rate=evaluation.success_rate,
        objective=penalty(pixels, problem.direction, settings)
        - jnp.mean(evidence(evaluation.logits, problem, classifier, settings)),
        trace=state.trace,
        steps=state.step,
        top_classes=top_classes,
        top_before=top_before,
        top_after=top_after,
    )
    return assign_status(
        result,
        problem,
        question.decides(original, classifier),
        settings.success_target or MAJORITY,
        evaluation.infill_suffices,
    )


def solve(
    problem: Problem, classifier: Classifier, generator: Generator, *, settings: Settings
) -> Explanation:
    """Optimises one problem from its first step and returns its `Explanation`."""
    take_steps = functools.partial(
        advance,
        problem=problem,
        classifier=classifier,
        generator=generator,
        settings=settings,
    )
    if settings.patience:
        state = jax.lax.while_loop(
            lambda state: ~is_done(state, settings),
            functools.partial(take_steps, num_steps=1),
            init(settings),
        )
    else:
        state = take_steps(init(settings), num_steps=settings.num_steps)
    return finish(state, problem, classifier, generator, settings=settings)


def explain_one(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array | np.ndarray,
    target: jax.Array | np.ndarray | int | None = None,
    *,
    objective: str = "ssr",
    mode: str = "region",
    contrast: int | None = None,
    score: Score | None = None,
    **overrides: Any,
) -> Explanation:
    """Explains one image: a plain function of arrays, for your own `jit`, `vmap` or `pmap`.

    Differs from `explain`: it checks shapes only, never values, and it does not fold the pixels
    into `key`. Pass a different key for every image.

    Args:
        key: random key for this image.
        classifier: the model to explain.
        generator: fills the holes.
        image: float32 `[H, W, C]` in [0, 1].
        target: class to explain; None takes the predicted class.
        objective: `"ssr"` or `"sdr"`.
        mode: `"region"`, `"fast"`, `"paper"` or `"bbmp"`.
        contrast: as in `explain`; its range is not checked.
        score: as in `explain`.
        **overrides: fields of `cfx_jax.fido.settings.Settings`.

    Returns:
        An `Explanation` without the leading axis.

    Raises:
        ValueError: a shape, a name or a setting is invalid.

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
    question = make_question(target, contrast, score)
    if jnp.ndim(image) != 3:
        raise ValueError(
            f"image has shape {jnp.shape(image)}; expected [H, W, C]: vmap over a batch, or call "
            "explain"
        )
    images = checks.check_problem(classifier, generator, image[None], objective, settings, contrast)
    if target is None:
        target = predict(classifier, images)[0]
    target = jnp.asarray(target)
    if target.ndim or not jnp.issubdtype(target.dtype, jnp.integer):
        raise ValueError(
            f"target has shape {target.shape} and type {target.dtype}; expected one whole number"
        )
    problem = make_problem(key, images[0], question.replace(target=target), objective)
    return solve(problem, classifier, generator, settings=settings)


def explain(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    images: jax.Array | np.ndarray,
    targets: jax.Array | np.ndarray | None = None,
    *,
    objective: str = "ssr",
    mode: str = "region",
    contrast: int | None = None,
    score: Score | None = None,
    **overrides: Any,
) -> Explanation:
    """Explains a batch of images.

    The key of an image is derived from `key`, the pixels of the image and the objective, not from
    its index in the batch: the same image gives the same mask alone, in any batch and in any order.

    Args:
        key: random key for the whole batch.
        classifier: the model to explain.
        generator: fills the holes.
        images: float32 `[N, H, W, C]`, RGB in [0, 1]. All are optimised together: memory grows with
            N x `num_samples`, about 90 MB for one EfficientNet-Lite0 image at four masks per step.
        targets: int `[N]`, classes to explain; None takes the predicted classes.
        objective: `"ssr"`, the smallest region that keeps the prediction when the rest is
            in-filled, or `"sdr"`, the smallest region whose in-filling flips the prediction.
        mode: `"region"` (default; the smallest region, of few connected parts, with which a given
            share of hard masks succeeds; unless the generator draws random numbers, the region does
            not depend on `key`), `"fast"` (independent pixels, the best objective), `"paper"` (as
            published) or `"bbmp"` (deterministic mask).
        contrast: a class k, for the question "why the target rather than k?" in place of "why the
            target?". The evidence is `log p(target) - log p(k)`, and the target counts as predicted
            where this is above 0, even if a third class is more likely.
        score: `score(logits [..., K], target) -> [...]`, a user-defined question. The score is the
            evidence, and the target counts as predicted where the score is above 0. Define the
            function once, because every new function object is compiled anew.
        **overrides: fields of `cfx_jax.fido.settings.Settings`, for example `num_steps=30`.

    Returns:
        An `Explanation` whose fields have a leading axis N. An image that cannot be explained has
        a `Status` other than `OK`; it does not affect the other images.

    Raises:
        ValueError: an argument has the wrong shape, type or range; the message names it, what was
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
    question = make_question(targets, contrast, score)
    arguments = (key, classifier, generator, images, question, mode, overrides)
    return _explain_objectives((objective,), *arguments)[objective]


def explain_both(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    images: jax.Array | np.ndarray,
    targets: jax.Array | np.ndarray | None = None,
    *,
    mode: str = "region",
    contrast: int | None = None,
    score: Score | None = None,
    **overrides: Any,
) -> dict[str, Explanation]:
    """Explains a batch of images with SSR and with SDR, in one compiled program.

    Args:
        key: random key, as in `explain`; the masks equal those of two separate calls.
        classifier: as in `explain`.
        generator: as in `explain`.
        images: as in `explain`; takes the memory that `explain` takes for 2 N images.
        targets: as in `explain`.
        mode: as in `explain`.
        contrast: as in `explain`.
        score: as in `explain`.
        **overrides: as in `explain`.

    Returns:
        `{"ssr": Explanation, "sdr": Explanation}`.

    Raises:
        ValueError: as in `explain`.
    """
    question = make_question(targets, contrast, score)
    arguments = (key, classifier, generator, images, question, mode, overrides)
    return _explain_objectives(tuple(DIRECTIONS), *arguments)


def _explain_objectives(
    objectives: tuple[str, ...],
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    images: jax.Array | np.ndarray,
    question: Question,
    mode: str,
    overrides: dict[str, Any],
) -> dict[str, Explanation]:
    settings = get_settings(mode, **overrides)
    checked = [
        checks.check_problem(classifier, generator, images, objective, settings, question.contrast)
        for objective in objectives
    ]
    if not isinstance(checked[0], jax.core.Tracer):
        check_fills(generator, checked[0].shape[1:])
    examples = prepare(key, classifier, checked[0], question)
    problems = [
        jax.vmap(functools.partial(make_problem, objective=o))(*examples) for o in objectives
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *problems)
    solved = _solve_batch(stacked, classifier, generator, settings=settings)
    n = len(images)
    return {
        o: jax.tree.map(lambda leaf, i=i: leaf[i * n : (i + 1) * n], solved)
        for i, o in enumerate(objectives)
    }


@functools.partial(jax.jit, static_argnames="settings")
def _solve_batch(
    problems: Problem, classifier: Classifier, generator: Generator, settings: Settings
) -> Explanation:
    solve_one = functools.partial(solve, settings=settings)
    return jax.vmap(solve_one, in_axes=(0, None, None))(problems, classifier, generator)

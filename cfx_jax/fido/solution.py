"""Solving ONE problem: `finish`, which evaluates a learnt mask, and `solve`, from start to end.

A problem is solved by `init` -> `advance` (any number of times) of `cfx_jax.fido.optimisation`,
then `finish`, all pure functions of arrays.
"""

import functools

import jax
import jax.numpy as jnp

from cfx_jax import classifiers
from cfx_jax.classifiers import Classifier
from cfx_jax.fido.explanation import (
    MAJORITY,
    REGION_THRESHOLD,
    Explanation,
    assign_status,
    find_top,
    measure_stability,
    saliency,
)
from cfx_jax.fido.hard_masks import evaluate_hard_masks, search_and_evaluate
from cfx_jax.fido.objective import Problem, evidence, noise_key, penalty, restrict
from cfx_jax.fido.optimisation import State, add_prior, advance, init, is_done
from cfx_jax.fido.resampling import smooth_cells
from cfx_jax.fido.settings import Settings
from cfx_jax.fido.threshold import start_searches
from cfx_jax.generators import Generator


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
    size = problem.image.shape[0], problem.image.shape[1]
    law, task = settings.mask_law, (problem, classifier, generator)
    # Keys beyond the last step, so that the mask is not evaluated with the noise of learning.
    keys = problem.key, noise_key(problem, settings), problem.key
    evaluation_key, search_key, full_infill_key = (
        jax.random.fold_in(key, settings.num_steps + offset) for offset, key in enumerate(keys)
    )
    cells = learnt = smooth_cells(state.cells, settings.smoothing)
    if settings.prior_weight and state.gradient_sum is not None:
        cells = add_prior(learnt, state.gradient_sum, settings.prior_weight)
    original = classifier.apply(classifier.params, problem.image[None])[0]
    question = problem.question
    if settings.success_target:
        logit_margin = question.logit_margin(original, classifier)
        searches = start_searches(
            restrict(cells, problem, law), problem.direction, logit_margin, settings
        )
        cells, evaluation = search_and_evaluate(
            search_key, evaluation_key, searches, *task, law=law, full_infill_key=full_infill_key
        )
        cells = restrict(cells, problem, law)
    else:
        cells = restrict(cells, problem, law)
        evaluation = evaluate_hard_masks(
            evaluation_key,
            law.keep_map(cells, size),
            *task,
            law=law,
            full_infill_key=full_infill_key,
            max_chunk_size=settings.num_samples,
        )
    pixels = law.keep_map(cells, size)
    importance = saliency(cells, problem.direction, size, law)
    stability = None
    if state.gradient_sum is not None:
        share = jnp.mean(importance > REGION_THRESHOLD)
        stability = measure_stability(learnt, state.gradient_sum, problem.direction, share)
    top_classes, top_before, top_after = find_top(original, evaluation.logits, classifier)
    result = Explanation(
        mask_logits=law.mask_logits(cells),
        keep_prob=law.keep_prob(cells),
        saliency=importance,
        infilled=evaluation.infilled,
        status=jnp.zeros((), jnp.int32),
        target=question.target,
        prediction=classifiers.predict(original),
        log_odds_original=question.log_odds(original, classifier),
        log_odds_infilled=evaluation.log_odds,
        kept_area=jnp.mean(pixels.keep),
        success_rate=evaluation.success_rate,
        stability=stability,
        objective=penalty(pixels, problem.direction, settings, prices=problem.prices)
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
            init(settings, problem),
        )
    else:
        state = take_steps(init(settings, problem), num_steps=settings.num_steps)
    return finish(state, problem, classifier, generator, settings=settings)

"""Evaluation of the learnt mask distribution with hard masks.

Masks are evaluated in chunks by one loop, so that the compiled program contains the networks only
once, regardless of the number of masks: the networks take most of the compile time.

Arrays: images float32 `[H, W, C]` in [0, 1]; masks have 1 = KEEP, 0 = in-fill.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cfx_jax.classifiers import Classifier
from cfx_jax.fido.masks import KeepMap, MaskLaw
from cfx_jax.fido.objective import Problem, classify_infilled, keep_map, succeeds
from cfx_jax.fido.settings import SEARCH_STEPS
from cfx_jax.fido.threshold import (
    ThresholdSearch,
    limit_connected_search,
    smallest_region,
)
from cfx_jax.generators import Generator

NUM_HARD_MASKS = 32
"""Hard masks drawn by `finish` to evaluate the learnt distribution."""
NUM_FULL_INFILLS = 4
"""Fully in-filled images, to test whether the in-fill alone is predicted as the target."""


class HardMaskResult(NamedTuple):
    """Result of evaluating hard masks drawn from a learnt distribution.

    Attributes:
        log_odds: float32 scalar, mean log-odds of the target on the in-filled images.
        success_rate: float32 scalar, share of masks that keep (SSR) or flip (SDR) the prediction.
        infilled: float32 `[H, W, C]`, the image in-filled under the first mask.
        logits: float32 `[num_masks, K]`, logits of the image in-filled under each mask.
        infill_suffices: bool scalar, whether all fully in-filled images are classified as the
            target; False if none was evaluated.
    """

    log_odds: jax.Array
    success_rate: jax.Array
    infilled: jax.Array
    logits: jax.Array
    infill_suffices: jax.Array


class _MaskBatch(NamedTuple):
    """Keys of R masks to evaluate.

    Attributes:
        mask_keys: random keys `[R]` of the masks.
        fill_keys: random keys `[R]` of the in-fills.
        is_full_infill: bool `[R]`, True for a mask of zeros, which keeps nothing.
    """

    mask_keys: jax.Array
    fill_keys: jax.Array
    is_full_infill: jax.Array


def evaluate_hard_masks(
    key: jax.Array,
    pixels: KeepMap,
    problem: Problem,
    classifier: Classifier,
    generator: Generator,
    *,
    law: MaskLaw,
    num_masks: int = NUM_HARD_MASKS,
    full_infill_key: jax.Array | None = None,
    max_chunk_size: int = 1,
) -> HardMaskResult:
    """Draws hard masks and classifies the image in-filled under each of them.

    Masks are drawn, because samples were optimised. The keep probability is not thresholded at 1/2:
    samples may keep the prediction although no pixel has a probability above 1/2.

    Args:
        key: random key.
        pixels: the mask distribution at the pixels.
        problem: the image and its question.
        classifier: the model to explain.
        generator: fills the holes.
        law: mask law under which the cells were learnt.
        num_masks: number of hard masks to draw.
        full_infill_key: random key of the fully in-filled images; None evaluates none.
        max_chunk_size: largest number of masks evaluated together, which limits the memory.

    Returns:
        A `HardMaskResult`.
    """
    masks = _evaluation_masks(key, num_masks, full_infill_key)
    total = len(masks.is_full_infill)
    # All chunks have the same size, since a remainder would need a second loop.
    size = next(size for size in range(min(max_chunk_size, total), 0, -1) if total % size == 0)
    evaluate = _make_evaluator(problem, classifier, generator, law)

    def evaluate_chunk(
        first: jax.Array, indexed_chunk: tuple[jax.Array, _MaskBatch]
    ) -> tuple[jax.Array, jax.Array]:
        index, chunk = indexed_chunk
        infilled, logits = evaluate(pixels, chunk)
        return jnp.where(index == 0, infilled, first), logits

    indices, first = jnp.arange(total // size), jnp.zeros_like(problem.image)
    infilled, logits = jax.lax.scan(evaluate_chunk, first, (indices, _split_chunks(masks, size)))
    return _summarize(infilled, logits.reshape(total, -1), num_masks, problem, classifier)


def search_and_evaluate(
    search_key: jax.Array,
    key: jax.Array,
    searches: ThresholdSearch,
    problem: Problem,
    classifier: Classifier,
    generator: Generator,
    *,
    law: MaskLaw,
    full_infill_key: jax.Array,
) -> tuple[jax.Array, HardMaskResult]:
    """Runs the threshold searches of a learnt map, then evaluates the map found, in one loop.

    Args:
        search_key: random key of the masks of the threshold searches.
        key: random key of the masks of the evaluation.
        searches: the threshold searches, see `cfx_jax.fido.threshold.start_searches`.
        problem: the image and its question.
        classifier: the model to explain.
        generator: fills the holes.
        law: mask law under which the cells were learnt.
        full_infill_key: random key of the fully in-filled images.

    Returns:
        The cells of the smallest region found, float32 `[h, w]`, and their `HardMaskResult`.
    """
    masks = _evaluation_masks(key, NUM_HARD_MASKS, full_infill_key)
    total, chunk_size = len(masks.is_full_infill), searches.settings.num_search_masks
    # The last chunk is padded with repeated masks, which are left out of the result.
    padded = jax.tree.map(lambda a: jnp.concatenate([a, a[: -total % chunk_size]]), masks)
    # The searches draw the same masks, so that they differ only in the map.
    drawn = _search_masks(search_key, chunk_size)
    of_searches = [jax.tree.map(lambda a, n=n: a[: n * chunk_size], drawn) for n in SEARCH_STEPS]
    all_masks = jax.tree.map(lambda *a: jnp.concatenate(a), *of_searches, padded)
    chunks = _split_chunks(all_masks, chunk_size)
    evaluate = _make_evaluator(problem, classifier, generator, law)

    def evaluate_chunk(
        carry: tuple[ThresholdSearch, jax.Array], indexed_chunk: tuple[jax.Array, _MaskBatch]
    ) -> tuple[tuple[ThresholdSearch, jax.Array], jax.Array]:
        (searches, first), (index, chunk) = carry, indexed_chunk
        is_start, limited = index == SEARCH_STEPS[0], limit_connected_search(searches)
        searches = jax.tree.map(lambda a, b: jnp.where(is_start, a, b), limited, searches)
        is_search = index < num_steps
        active = jnp.where(is_search, index >= SEARCH_STEPS[0], len(SEARCH_STEPS)).astype(int)
        search = jax.tree.map(lambda every: every[active], searches)
        cells = jnp.where(is_search, search.candidate(), smallest_region(searches, size))
        infilled, logits = evaluate(keep_map(cells, problem, law), chunk)
        margins = problem.direction * problem.question.logit_margin(logits, classifier)
        # After the last search, the index is out of range, and nothing is updated.
        searches = jax.tree.map(
            lambda every, one: every.at[active].set(one), searches, search.update(margins)
        )
        return (searches, jnp.where(index == num_steps, infilled, first)), logits

    size = problem.image.shape[0], problem.image.shape[1]
    num_steps = sum(SEARCH_STEPS)
    indices, first = jnp.arange(len(chunks.is_full_infill)), jnp.zeros_like(problem.image)
    carry = searches, first
    (searches, infilled), logits = jax.lax.scan(evaluate_chunk, carry, (indices, chunks))
    logits = logits[num_steps:].reshape(len(padded.is_full_infill), -1)[:total]
    return smallest_region(searches, size), _summarize(
        infilled, logits, NUM_HARD_MASKS, problem, classifier
    )


def _evaluation_masks(
    key: jax.Array, num_masks: int, full_infill_key: jax.Array | None
) -> _MaskBatch:
    """Returns the masks to draw, followed by those that keep nothing."""
    keys = jax.vmap(jax.random.split)(jax.random.split(key, num_masks))
    mask_keys, fill_keys = keys[:, 0], keys[:, 1]
    if full_infill_key is not None:
        full_keys = jax.random.split(full_infill_key, NUM_FULL_INFILLS)
        mask_keys, fill_keys = (jnp.concatenate([k, full_keys]) for k in (mask_keys, fill_keys))
    return _MaskBatch(mask_keys, fill_keys, jnp.arange(len(fill_keys)) >= num_masks)


def _search_masks(key: jax.Array, num_masks: int) -> _MaskBatch:
    def split(key: jax.Array) -> jax.Array:
        return jax.random.split(key, num_masks)

    keys = jax.vmap(jax.random.split)(jax.random.split(key, max(SEARCH_STEPS)))
    mask_keys, fill_keys = (jax.vmap(split)(keys[:, i]).reshape(-1) for i in range(2))
    return _MaskBatch(mask_keys, fill_keys, jnp.zeros(len(fill_keys), bool))


def _split_chunks(masks: _MaskBatch, size: int) -> _MaskBatch:
    return jax.tree.map(lambda array: array.reshape(-1, size), masks)


def _make_evaluator(
    problem: Problem, classifier: Classifier, generator: Generator, law: MaskLaw
) -> Callable[[KeepMap, _MaskBatch], tuple[jax.Array, jax.Array]]:
    """Returns a function that classifies the image in-filled under each mask of a batch.

    The function returns the image in-filled under the first mask, `[H, W, C]`, and the logits of
    all masks, `[S, K]`.
    """

    def evaluate_one(pixels: KeepMap, single: _MaskBatch) -> tuple[jax.Array, jax.Array]:
        mask = jnp.where(single.is_full_infill, 0.0, law.draw_hard(single.mask_keys, pixels))
        infilled, logits = classify_infilled(
            problem, mask, mask, single.fill_keys, classifier, generator
        )
        return infilled[0], logits[0]

    def evaluate(pixels: KeepMap, masks: _MaskBatch) -> tuple[jax.Array, jax.Array]:
        infilled, logits = jax.vmap(evaluate_one, in_axes=(None, 0))(pixels, masks)
        return infilled[0], logits

    return evaluate


def _summarize(
    infilled: jax.Array,
    logits: jax.Array,
    num_masks: int,
    problem: Problem,
    classifier: Classifier,
) -> HardMaskResult:
    fully_infilled, logits = logits[num_masks:], logits[:num_masks]
    suffices = jnp.all(problem.question.decides(fully_infilled, classifier))
    return HardMaskResult(
        log_odds=jnp.mean(problem.question.log_odds(logits, classifier)),
        success_rate=jnp.mean(succeeds(logits, problem, classifier).astype(jnp.float32)),
        infilled=infilled,
        logits=logits,
        infill_suffices=suffices & (len(fully_infilled) > 0),
    )

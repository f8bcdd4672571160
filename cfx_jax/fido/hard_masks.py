"""Hard masks drawn from what was learnt, and what they do to the classifier.

Masks are looked at in parts, one part after another in one loop: however many there are, the
networks are in the program once, which is what takes long to compile.

Arrays: images float32 `[H, W, C]` in [0, 1]; masks have 1 = KEEP, 0 = in-fill.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cfx_jax.classifiers import Classifier
from cfx_jax.fido.masks import KeepMap, MaskLaw
from cfx_jax.fido.objective import Problem, classify_infilled, succeeds
from cfx_jax.fido.settings import SEARCH_MASKS, SEARCH_STEPS
from cfx_jax.fido.threshold import ThresholdSearch
from cfx_jax.generators import Generator

NUM_HARD_MASKS = 32
"""Hard masks drawn by `finish` to judge the learnt distribution."""
NUM_FULL_INFILLS = 4
"""In-fills of the whole image by which is seen whether the in-fill decides by itself."""


class HardMaskResult(NamedTuple):
    """What hard masks drawn from a learnt distribution do.

    Attributes:
        log_odds: float32 scalar, mean log-odds of the target on the in-filled images.
        success_rate: float32 scalar, share of masks that do what was asked.
        infilled: float32 `[H, W, C]`, the image under the first of the masks.
        logits: float32 `[num_masks, K]`, of the image under each of them.
        infill_suffices: bool scalar, whether in-fills of the whole image are classified as the
            target, too; False where none was looked at.
    """

    log_odds: jax.Array
    success_rate: jax.Array
    infilled: jax.Array
    logits: jax.Array
    infill_suffices: jax.Array


class _Rows(NamedTuple):
    """Masks to look at: keys `[R]` of the mask and of its in-fill, and bool `[R]`, keep nothing."""

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
    at_once: int = 1,
) -> HardMaskResult:
    """Draws hard masks and sees what they do to the classifier.

    Masks are drawn rather than the probability cut at 1/2: a distribution whose samples preserve
    the decision may keep no pixel with more than probability 1/2, and was not optimised to.

    Args:
        key: random key.
        pixels: the mask distribution at the pixels.
        problem: the image and what is asked of it.
        classifier: the model explained.
        generator: fills the holes.
        law: of the masks that were optimised.
        num_masks: how many are drawn.
        full_infill_key: random key of in-fills of the whole image; None looks at none.
        at_once: masks looked at together at most, for their memory.

    Returns:
        A `HardMaskResult`.
    """
    rows = _evaluation_rows(key, num_masks, full_infill_key)
    total = len(rows.is_full_infill)
    # Parts of one size, or there would be a second loop for the rest.
    size = next(size for size in range(min(at_once, total), 0, -1) if total % size == 0)
    look = _make_evaluator(problem, classifier, generator, law)

    def evaluate_chunk(
        first: jax.Array, some: tuple[jax.Array, _Rows]
    ) -> tuple[jax.Array, jax.Array]:
        place, part = some
        infilled, logits = look(pixels, part)
        return jnp.where(place == 0, infilled, first), logits

    places, first = jnp.arange(total // size), jnp.zeros_like(problem.image)
    infilled, logits = jax.lax.scan(evaluate_chunk, first, (places, _part(rows, size)))
    return _summarize(infilled, logits.reshape(total, -1), num_masks, problem, classifier)


def search_and_evaluate(
    search_key: jax.Array,
    key: jax.Array,
    search: ThresholdSearch,
    problem: Problem,
    classifier: Classifier,
    generator: Generator,
    *,
    law: MaskLaw,
    full_infill_key: jax.Array,
) -> tuple[jax.Array, HardMaskResult]:
    """Finds the level of a learnt map, then judges the map at this level, in one loop.

    Args:
        search_key: random key of the masks that choose the level.
        key: random key of the masks that judge.
        search: for the level.
        problem: the image and what is asked of it.
        classifier: the model explained.
        generator: fills the holes.
        law: of the masks that were optimised.
        full_infill_key: random key of in-fills of the whole image.

    Returns:
        The cells at the level found, float32 `[h, w]`, and the `HardMaskResult` on them.
    """
    height, width = problem.image.shape[:2]
    judged = _evaluation_rows(key, NUM_HARD_MASKS, full_infill_key)
    total = len(judged.is_full_infill)
    # Rows that make up the last part are looked at again, and left out of the verdict.
    padded = jax.tree.map(lambda a: jnp.concatenate([a, a[: -total % SEARCH_MASKS]]), judged)
    rows = jax.tree.map(lambda *a: jnp.concatenate(a), _search_rows(search_key), padded)
    parts = _part(rows, SEARCH_MASKS)
    look = _make_evaluator(problem, classifier, generator, law)

    def evaluate_chunk(
        carried: tuple[ThresholdSearch, jax.Array], some: tuple[jax.Array, _Rows]
    ) -> tuple[tuple[ThresholdSearch, jax.Array], jax.Array]:
        (search, first), (place, part) = carried, some
        is_search = place < SEARCH_STEPS
        cells = jnp.where(is_search, search.candidate(), search.result())
        infilled, logits = look(law.keep_map(cells, (height, width)), part)
        reached = problem.direction * problem.question.logit_margin(logits, classifier)
        narrowed = search.update(reached)
        search = jax.tree.map(lambda new, old: jnp.where(is_search, new, old), narrowed, search)
        return (search, jnp.where(place == SEARCH_STEPS, infilled, first)), logits

    places, first = jnp.arange(len(parts.is_full_infill)), jnp.zeros_like(problem.image)
    (search, infilled), logits = jax.lax.scan(evaluate_chunk, (search, first), (places, parts))
    logits = logits[SEARCH_STEPS:].reshape(len(padded.is_full_infill), -1)[:total]
    return search.result(), _summarize(infilled, logits, NUM_HARD_MASKS, problem, classifier)


def _evaluation_rows(key: jax.Array, num_masks: int, full_infill_key: jax.Array | None) -> _Rows:
    """Masks first, then in-fills of the whole image."""
    keys = jax.vmap(jax.random.split)(jax.random.split(key, num_masks))
    mask_keys, fill_keys = keys[:, 0], keys[:, 1]
    if full_infill_key is not None:
        bare_keys = jax.random.split(full_infill_key, NUM_FULL_INFILLS)
        mask_keys, fill_keys = (jnp.concatenate([k, bare_keys]) for k in (mask_keys, fill_keys))
    return _Rows(mask_keys, fill_keys, jnp.arange(len(fill_keys)) >= num_masks)


def _search_rows(key: jax.Array) -> _Rows:
    def split(key: jax.Array) -> jax.Array:
        return jax.random.split(key, SEARCH_MASKS)

    keys = jax.vmap(jax.random.split)(jax.random.split(key, SEARCH_STEPS))
    mask_keys, fill_keys = (jax.vmap(split)(keys[:, i]).reshape(-1) for i in range(2))
    return _Rows(mask_keys, fill_keys, jnp.zeros(len(fill_keys), bool))


def _part(rows: _Rows, size: int) -> _Rows:
    return jax.tree.map(lambda array: array.reshape(-1, size), rows)


def _make_evaluator(
    problem: Problem, classifier: Classifier, generator: Generator, law: MaskLaw
) -> Callable[[KeepMap, _Rows], tuple[jax.Array, jax.Array]]:
    """Returns what looks at masks: the image under the first, `[H, W, C]`, and logits `[S, K]`."""

    def evaluate_one(pixels: KeepMap, row: _Rows) -> tuple[jax.Array, jax.Array]:
        mask = jnp.where(row.is_full_infill, 0.0, law.draw_hard(row.mask_keys, pixels))
        infilled, logits = classify_infilled(
            problem, mask, mask, row.fill_keys, classifier, generator
        )
        return infilled[0], logits[0]

    def look(pixels: KeepMap, rows: _Rows) -> tuple[jax.Array, jax.Array]:
        infilled, logits = jax.vmap(evaluate_one, in_axes=(None, 0))(pixels, rows)
        return infilled[0], logits

    return look


def _summarize(
    infilled: jax.Array,
    logits: jax.Array,
    num_masks: int,
    problem: Problem,
    classifier: Classifier,
) -> HardMaskResult:
    bare, logits = logits[num_masks:], logits[:num_masks]
    return HardMaskResult(
        log_odds=jnp.mean(problem.question.log_odds(logits, classifier)),
        success_rate=jnp.mean(succeeds(logits, problem, classifier).astype(jnp.float32)),
        infilled=infilled,
        logits=logits,
        infill_suffices=jnp.all(problem.question.decides(bare, classifier)) & (len(bare) > 0),
    )

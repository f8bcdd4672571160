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
from cfx_jax.fido.settings import SETTLING_MASKS, SETTLING_ROUNDS
from cfx_jax.fido.settling import LevelSearch
from cfx_jax.generators import Generator

NUM_HARD_MASKS = 32
"""Hard masks drawn by `finish` to judge the learnt distribution."""
NUM_BARE = 4
"""In-fills of the whole image by which is seen whether the in-fill decides by itself."""


class Verdict(NamedTuple):
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
    is_bare: jax.Array


def judge(
    key: jax.Array,
    pixels: KeepMap,
    problem: Problem,
    classifier: Classifier,
    generator: Generator,
    *,
    law: MaskLaw,
    num_masks: int = NUM_HARD_MASKS,
    bare_key: jax.Array | None = None,
    at_once: int = 1,
) -> Verdict:
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
        bare_key: random key of in-fills of the whole image; None looks at none.
        at_once: masks looked at together at most, for their memory.

    Returns:
        A `Verdict`.
    """
    rows = _rows_to_judge(key, num_masks, bare_key)
    total = len(rows.is_bare)
    # Parts of one size, or there would be a second loop for the rest.
    size = next(size for size in range(min(at_once, total), 0, -1) if total % size == 0)
    look = _looker(problem, classifier, generator, law)

    def look_at_some(
        first: jax.Array, some: tuple[jax.Array, _Rows]
    ) -> tuple[jax.Array, jax.Array]:
        place, part = some
        infilled, logits = look(pixels, part)
        return jnp.where(place == 0, infilled, first), logits

    places, first = jnp.arange(total // size), jnp.zeros_like(problem.image)
    infilled, logits = jax.lax.scan(look_at_some, first, (places, _part(rows, size)))
    return _conclude(infilled, logits.reshape(total, -1), num_masks, problem, classifier)


def settle_and_judge(
    settle_key: jax.Array,
    key: jax.Array,
    search: LevelSearch,
    problem: Problem,
    classifier: Classifier,
    generator: Generator,
    *,
    law: MaskLaw,
    bare_key: jax.Array,
) -> tuple[jax.Array, Verdict]:
    """Finds the level of a learnt map, then judges the map at this level, in one loop.

    Args:
        settle_key: random key of the masks that choose the level.
        key: random key of the masks that judge.
        search: for the level.
        problem: the image and what is asked of it.
        classifier: the model explained.
        generator: fills the holes.
        law: of the masks that were optimised.
        bare_key: random key of in-fills of the whole image.

    Returns:
        The cells at the level found, float32 `[h, w]`, and the `Verdict` on them.
    """
    height, width = problem.image.shape[:2]
    judged = _rows_to_judge(key, NUM_HARD_MASKS, bare_key)
    total = len(judged.is_bare)
    # Rows that make up the last part are looked at again, and left out of the verdict.
    padded = jax.tree.map(lambda a: jnp.concatenate([a, a[: -total % SETTLING_MASKS]]), judged)
    rows = jax.tree.map(lambda *a: jnp.concatenate(a), _rows_to_settle(settle_key), padded)
    parts = _part(rows, SETTLING_MASKS)
    look = _looker(problem, classifier, generator, law)

    def look_at_some(
        carried: tuple[LevelSearch, jax.Array], some: tuple[jax.Array, _Rows]
    ) -> tuple[tuple[LevelSearch, jax.Array], jax.Array]:
        (search, first), (place, part) = carried, some
        is_search = place < SETTLING_ROUNDS
        cells = jnp.where(is_search, search.tried(), search.found())
        infilled, logits = look(law.keep_map(cells, (height, width)), part)
        reached = problem.direction * problem.question.lead(logits, classifier)
        narrowed = search.narrow(reached)
        search = jax.tree.map(lambda new, old: jnp.where(is_search, new, old), narrowed, search)
        return (search, jnp.where(place == SETTLING_ROUNDS, infilled, first)), logits

    places, first = jnp.arange(len(parts.is_bare)), jnp.zeros_like(problem.image)
    (search, infilled), logits = jax.lax.scan(look_at_some, (search, first), (places, parts))
    logits = logits[SETTLING_ROUNDS:].reshape(len(padded.is_bare), -1)[:total]
    return search.found(), _conclude(infilled, logits, NUM_HARD_MASKS, problem, classifier)


def _rows_to_judge(key: jax.Array, num_masks: int, bare_key: jax.Array | None) -> _Rows:
    """Masks first, then in-fills of the whole image."""
    keys = jax.vmap(jax.random.split)(jax.random.split(key, num_masks))
    mask_keys, fill_keys = keys[:, 0], keys[:, 1]
    if bare_key is not None:
        bare_keys = jax.random.split(bare_key, NUM_BARE)
        mask_keys, fill_keys = (jnp.concatenate([k, bare_keys]) for k in (mask_keys, fill_keys))
    return _Rows(mask_keys, fill_keys, jnp.arange(len(fill_keys)) >= num_masks)


def _rows_to_settle(key: jax.Array) -> _Rows:
    def split(key: jax.Array) -> jax.Array:
        return jax.random.split(key, SETTLING_MASKS)

    keys = jax.vmap(jax.random.split)(jax.random.split(key, SETTLING_ROUNDS))
    mask_keys, fill_keys = (jax.vmap(split)(keys[:, i]).reshape(-1) for i in range(2))
    return _Rows(mask_keys, fill_keys, jnp.zeros(len(fill_keys), bool))


def _part(rows: _Rows, size: int) -> _Rows:
    return jax.tree.map(lambda array: array.reshape(-1, size), rows)


def _looker(
    problem: Problem, classifier: Classifier, generator: Generator, law: MaskLaw
) -> Callable[[KeepMap, _Rows], tuple[jax.Array, jax.Array]]:
    """Returns what looks at masks: the image under the first, `[H, W, C]`, and logits `[S, K]`."""

    def look_at_one(pixels: KeepMap, row: _Rows) -> tuple[jax.Array, jax.Array]:
        mask = jnp.where(row.is_bare, 0.0, law.draw_hard(row.mask_keys, pixels))
        infilled, logits = classify_infilled(
            problem, mask, mask, row.fill_keys, classifier, generator
        )
        return infilled[0], logits[0]

    def look(pixels: KeepMap, rows: _Rows) -> tuple[jax.Array, jax.Array]:
        infilled, logits = jax.vmap(look_at_one, in_axes=(None, 0))(pixels, rows)
        return infilled[0], logits

    return look


def _conclude(
    infilled: jax.Array,
    logits: jax.Array,
    num_masks: int,
    problem: Problem,
    classifier: Classifier,
) -> Verdict:
    bare, logits = logits[num_masks:], logits[:num_masks]
    return Verdict(
        log_odds=jnp.mean(problem.question.log_odds(logits, classifier)),
        success_rate=jnp.mean(succeeds(logits, problem, classifier).astype(jnp.float32)),
        infilled=infilled,
        logits=logits,
        infill_suffices=jnp.all(problem.question.decides(bare, classifier)) & (len(bare) > 0),
    )

"""Evaluates masks with in-fills and classifiers with which they were not learnt.

All functions are pure functions of ONE image. A mask succeeds with a classifier that still predicts
the target on the in-filled image (SSR), or no longer predicts it (SDR).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cfx_jax.classifiers import Classifier
from cfx_jax.fido import (
    NUM_HARD_MASKS,
    SSR,
    KeepMap,
    MaskLaw,
    Problem,
    composite,
    evaluate_hard_masks,
    succeeds,
)
from cfx_jax.generators import Generator


def transfer_to_infills(
    problem: Problem,
    pixels: KeepMap,
    classifier: Classifier,
    generators: Sequence[Generator],
    law: MaskLaw,
    num_masks: int,
) -> tuple[jax.Array, jax.Array]:
    """Evaluates hard masks with several in-fills and the classifier they were learnt with.

    Args:
        problem: the image, its question and its objective.
        pixels: the mask distribution at the pixels.
        classifier: the explained model, with which the masks were learnt.
        generators: G generators that fill the holes.
        law: mask law under which the masks were learnt.
        num_masks: number of hard masks drawn for each generator.

    Returns:
        Mean log-odds of the target and success rate, float32 `[G]` each.
    """
    results = [
        evaluate_hard_masks(
            problem.key, pixels, problem, classifier, generator, law=law, num_masks=num_masks
        )
        for generator in generators
    ]
    # The in-filled images are not returned.
    return (
        jnp.stack([result.log_odds for result in results]),
        jnp.stack([result.success_rate for result in results]),
    )


def transfer_to_classifiers(
    problem: Problem,
    pixels: KeepMap,
    classifiers: Sequence[Classifier],
    generator: Generator,
    law: MaskLaw,
) -> jax.Array:
    """Evaluates `NUM_HARD_MASKS` hard masks with several classifiers and one in-fill.

    Args:
        problem: the image, its question and its objective.
        pixels: the mask distribution at the pixels.
        classifiers: k classifiers with which the masks were not learnt.
        generator: model that fills the holes.
        law: mask law under which the masks were learnt.

    Returns:
        Success rate, float32 `[k]`; NaN for a classifier that does not predict the target on the
        original image.
    """

    def draw_and_evaluate(key: jax.Array) -> jax.Array:
        # The masks are drawn as in `evaluate_hard_masks`, but in-filled once for all classifiers.
        mask_key, fill_key = jax.random.split(key)
        mask = law.draw_hard(mask_key, pixels)
        return _succeeds(problem, mask, fill_key, classifiers, generator)

    success = jax.lax.map(draw_and_evaluate, jax.random.split(problem.key, NUM_HARD_MASKS))
    return _where_right(jnp.mean(success, axis=0), problem, classifiers)


def evaluate_region(
    problem: Problem,
    region: jax.Array,
    classifier: Classifier,
    others: Sequence[Classifier],
    generator: Generator,
) -> jax.Array:
    """Evaluates one fixed region with the explained classifier and with other classifiers.

    Args:
        problem: the image, its question and its objective.
        region: pixels that SSR keeps and SDR drops, bool `[H, W]`.
        classifier: the explained model, with which the region was learnt; its result is never NaN.
        others: k classifiers with which the region was not learnt.
        generator: model that fills the holes.

    Returns:
        Success of the region, 1 or 0, float32 `[1 + k]`, the explained classifier first; NaN for
        another classifier that does not predict the target on the original image.
    """
    mask = jnp.where(problem.direction == SSR, region, ~region)
    success = _succeeds(
        problem,
        mask.astype(jnp.float32)[None, ..., None],
        problem.key,
        (classifier, *others),
        generator,
    )
    return jnp.concatenate([success[:1], _where_right(success[1:], problem, others)])


def _succeeds(
    problem: Problem,
    mask: jax.Array,
    key: jax.Array,
    classifiers: Sequence[Classifier],
    generator: Generator,
) -> jax.Array:
    """Returns whether a hard mask `[1, H, W, 1]` succeeds with each classifier, float32 `[k]`."""
    infill = generator.apply(generator.params, problem.image[None], mask, key)
    images = composite(problem.image, mask, infill)
    success = [
        succeeds(other.apply(other.params, images), problem, other)[0] for other in classifiers
    ]
    return jnp.array(success, jnp.float32)


def _where_right(
    success: jax.Array, problem: Problem, classifiers: Sequence[Classifier]
) -> jax.Array:
    """Sets success to NaN for classifiers that do not predict the target on the original image."""
    logits = (other.apply(other.params, problem.image[None])[0] for other in classifiers)
    is_right = [
        problem.question.decides(z, other) for other, z in zip(classifiers, logits, strict=True)
    ]
    return jnp.where(jnp.array(is_right, bool), success, jnp.nan)

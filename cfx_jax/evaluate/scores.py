"""Everything the classifier has to be asked about a map or a mask of ONE image, at once."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cfx_jax.classifiers import Classifier
from cfx_jax.fido.explanation import Verdict, judge
from cfx_jax.fido.masks import MaskLaw
from cfx_jax.fido.objective import make_problem
from cfx_jax.generators import Generator
from cfx_jax.metrics.curves import crop_metric, deletion_curve, insertion_curve


class MapScores(NamedTuple):
    """What the classifier makes of a map; the curves hold the probability of the target.

    Attributes:
        crop: float32 scalar, SM of the box of the map, see `crop_metric`.
        deletion: float32 `[G, P]`, as the most important pixels are replaced first, for each of G
            generators.
        insertion: float32 `[G, P]`, as they come back first.
    """

    crop: jax.Array
    deletion: jax.Array
    insertion: jax.Array


def score_map(
    key: jax.Array,
    classifier: Classifier,
    generators: Sequence[Generator],
    image: jax.Array,
    target: jax.Array | int,
    importance: jax.Array,
    box: jax.Array,
    num_steps: int,
) -> MapScores:
    """Scores the map of one image; it looks at it `1 + 2 G (num_steps + 1)` times.

    Args:
        key: random key of this image.
        classifier: the model explained.
        generators: each replaces the pixels of two curves.
        image: float32 `[H, W, C]` in [0, 1].
        target: class explained.
        importance: `[H, W]`, larger = more important.
        box: float `[4]`, the box of the map, for its crop.
        num_steps: of each curve; P = `num_steps + 1`.

    Returns:
        `MapScores`.
    """
    arguments = (image, target, importance, num_steps)
    curves = [
        [draw(key, classifier, generator, *arguments) for generator in generators]
        for draw in (deletion_curve, insertion_curve)
    ]
    deletion, insertion = (jnp.stack([curve.probability for curve in row]) for row in curves)
    return MapScores(crop_metric(classifier, image, target, box), deletion, insertion)


def transfer_mask(
    key: jax.Array,
    classifier: Classifier,
    generators: Sequence[Generator],
    image: jax.Array,
    target: jax.Array | int,
    cells: jax.Array,
    *,
    objective: str,
    law: MaskLaw,
    num_masks: int = 8,
) -> Verdict:
    """Judges a mask with in-fills it was not learnt with: evidence, or a trick of one generator?

    Args:
        key: random key of this image.
        classifier: the model explained.
        generators: G judges.
        image: float32 `[H, W, C]` in [0, 1].
        target: class explained.
        cells: float32 `[h, w]`, the learnt mask, see `MaskLaw`.
        objective: `"ssr"` or `"sdr"`, what it was learnt for.
        law: of the masks it was learnt with.
        num_masks: hard masks drawn for each judge.

    Returns:
        The `Verdict` of each judge, fields with a leading axis G.
    """
    problem = make_problem(key, image, target, objective)
    height, width = image.shape[:2]
    pixels = law.keep_map(cells, (height, width))
    verdicts = [
        judge(
            problem.key,
            pixels,
            problem,
            classifier,
            generator,
            law=law,
            num_masks=num_masks,
        )
        for generator in generators
    ]
    return jax.tree.map(lambda *rows: jnp.stack(rows), *verdicts)

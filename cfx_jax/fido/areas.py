"""Masks of given areas: how much of an image decides, as a curve over the area.

For each area a, a mask m that covers a share a of the image is learnt such that keeping the covered
pixels preserves the decision best (SSR), or in-filling them changes the decision most (SDR). The
areas are given, so there is no lambda to choose.

    maximise  direction * log-odds(m) - w(t) * mean (sort(m) - r_a)^2

r_a consists of zeros followed by a share a of ones, so that m approaches a binary mask with the
given area. The weight w grows from 0 to 4,800. m is smooth: each value is the largest of the nearby
cells, weighted by their distance.

Source: extremal perturbations, Fong, Patrick and Vedaldi, ICCV 2019. Differences: a generator fills
the hole, cells are spread before they are enlarged to pixels, the score is the log-odds, and the
optimiser is Adam, which needs a quarter of the steps.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cfx_jax import numerics
from cfx_jax.classifiers import Classifier
from cfx_jax.fido import checks
from cfx_jax.fido.batch import make_question, prepare
from cfx_jax.fido.masks import rank_pixels
from cfx_jax.fido.objective import SSR, Problem, classify_infilled, make_problem
from cfx_jax.fido.question import Score
from cfx_jax.fido.resampling import upsample
from cfx_jax.fido.settings import get_settings
from cfx_jax.generators import Generator

AREAS = (0.05, 0.1, 0.2, 0.4)
NUM_STEPS = 200

_LEARNING_RATE = 0.05
# Weight w of the area term at the last step. It is 0 at the first step, where all cells are equal
# and their order after sorting would depend on their position.
_FINAL_AREA_WEIGHT = 4800.0
# Cells along each side of the mask. At 224 pixels a cell is 7 pixels wide and spreads over 21.
_NUM_CELLS = 32
_SPREAD = 3
# Sharpness of the smooth maximum: a larger value comes closer to the largest cell.
_SHARPNESS = 20.0


class AreaMasks(NamedTuple):
    """Masks learnt for given areas.

    `explain_areas` returns each field except `areas` with a leading axis N.

    Attributes:
        areas: float32 `[A]`, the given shares of the image.
        importance: float32 `[A, H, W]` in [0, 1], near 1 where the mask covers the image.
        log_odds: float32 `[A]`, log-odds of the target when exactly that share of the pixels, the
            most important ones, is kept (SSR) or in-filled (SDR).
        probability: float32 `[A]`, probability of the target on the same image.
    """

    areas: jax.Array
    importance: jax.Array
    log_odds: jax.Array
    probability: jax.Array


@numerics.jax_config(numerics.API_CONFIG)
def explain_areas(
    key: jax.Array | int,
    classifier: Classifier,
    generator: Generator,
    images: jax.Array | np.ndarray,
    targets: jax.Array | np.ndarray | None = None,
    *,
    objective: str = "ssr",
    areas: tuple[float, ...] = AREAS,
    num_steps: int = NUM_STEPS,
    contrast: int | None = None,
    score: Score | None = None,
) -> AreaMasks:
    """Learns a mask of each area for each image, all in one compiled program.

    Args:
        key: random key or seed for the whole batch; a checksum of the pixels is folded in for
            each image.
        classifier: the model to explain.
        generator: fills the pixels that are not kept.
        images: float32 `[N, H, W, C]` in [0, 1]; memory grows with the number of areas.
        targets: int `[N]`, classes to explain; None takes the predicted classes.
        objective: `"ssr"` keeps a share of each image, `"sdr"` in-fills it.
        areas: shares of the image, each in (0, 1).
        num_steps: optimiser steps.
        contrast: as in `cfx_jax.explain`.
        score: as in `cfx_jax.explain`.

    Returns:
        `AreaMasks` with a leading axis N in each field but `areas`.

    Raises:
        ValueError: an argument has the wrong shape, type or range.

    Example:
        >>> import jax, jax.numpy as jnp, cfx_jax
        >>> classifier = cfx_jax.Classifier(params=(), apply=lambda _, x: x.mean((1, 2)))
        >>> images = jnp.ones((2, 8, 8, 3))
        >>> grey = cfx_jax.load_generator("grey")
        >>> key = jax.random.key(0)
        >>> masks = explain_areas(key, classifier, grey, images, areas=(0.1, 0.5), num_steps=3)
        >>> masks.importance.shape, masks.log_odds.shape
        ((2, 2, 8, 8), (2, 2))
    """
    for area in areas:
        if not 0 < area < 1:
            raise ValueError(
                f"areas contain {area!r}; expected shares between 0 and 1, both excluded"
            )
    if not areas or num_steps < 1:
        raise ValueError(
            f"areas are {areas!r} and num_steps is {num_steps!r}; expected at least one area and "
            "one step"
        )
    settings = get_settings("bbmp", mask_size=1)
    question = make_question(targets, contrast, score)
    images = checks.check_problem(classifier, generator, images, objective, settings, contrast)
    problems = jax.vmap(functools.partial(make_problem, objective=objective))(
        *prepare(key, classifier, images, question)
    )
    shares = jnp.asarray(areas, jnp.float32)
    masks = _solve_batch(problems, classifier, generator, shares, num_steps=num_steps)
    return masks._replace(areas=shares)


@functools.partial(jax.jit, static_argnames="num_steps")
def _solve_batch(
    problems: Problem,
    classifier: Classifier,
    generator: Generator,
    areas: jax.Array,
    num_steps: int,
) -> AreaMasks:
    return jax.lax.map(
        lambda problem: solve_areas(problem, classifier, generator, areas, num_steps), problems
    )


def solve_areas(
    problem: Problem,
    classifier: Classifier,
    generator: Generator,
    areas: jax.Array,
    num_steps: int = NUM_STEPS,
) -> AreaMasks:
    """Learns the masks of ONE image: a plain function of arrays.

    Args:
        problem: the image and its question.
        classifier: the model to explain.
        generator: fills the pixels that are not kept.
        areas: float32 `[A]`, shares of the image.
        num_steps: optimiser steps.

    Returns:
        `AreaMasks` of the image.
    """
    height, width = problem.image.shape[:2]
    optimizer = optax.adam(optax.linear_schedule(_LEARNING_RATE, 0.0, num_steps))
    # Every area has the same grid of cells, so that the A masks form one batch for the classifier.
    grid = min(_NUM_CELLS, height), min(_NUM_CELLS, width)
    cells = jnp.full((len(areas), *grid), 0.5, jnp.float32)
    # Reference r_a of the sorted mask, [A, H * W].
    quantiles = jnp.arange(height * width, dtype=jnp.float32) / (height * width)
    reference = (quantiles >= 1.0 - areas[:, None]).astype(jnp.float32)

    def loss(cells: jax.Array, weight: jax.Array) -> jax.Array:
        importance = _enlarge(cells, (height, width))
        logits = _classify_masked(problem, classifier, generator, importance)
        errors = jnp.square(jnp.sort(importance.reshape(len(areas), -1)) - reference)
        evidence = problem.direction * problem.question.log_odds(logits, classifier)
        return jnp.sum(weight * errors.mean(axis=1) - evidence)

    def step(
        carry: tuple[jax.Array, optax.OptState], weight: jax.Array
    ) -> tuple[tuple[jax.Array, optax.OptState], None]:
        cells, state = carry
        updates, state = optimizer.update(jax.grad(loss)(cells, weight), state, cells)
        return (jnp.clip(optax.apply_updates(cells, updates), 0.0, 1.0), state), None

    weights = jnp.linspace(0.0, _FINAL_AREA_WEIGHT, num_steps, dtype=jnp.float32)
    (cells, _), _ = jax.lax.scan(step, (cells, optimizer.init(cells)), weights)
    importance = _enlarge(cells, (height, width))
    covered = jax.vmap(_top)(importance, areas)
    logits = _classify_masked(problem, classifier, generator, covered)
    evidence = problem.question.log_odds(logits, classifier)
    return AreaMasks(
        areas=areas,
        importance=importance,
        log_odds=evidence,
        probability=jax.nn.sigmoid(evidence),
    )


def _classify_masked(
    problem: Problem, classifier: Classifier, generator: Generator, covered: jax.Array
) -> jax.Array:
    """Returns logits `[A, K]` of the image with the covered pixels kept (SSR) or in-filled (SDR).

    Args:
        problem: the image and its question.
        classifier: the model to explain.
        generator: fills the pixels that are not kept.
        covered: float32 `[A, H, W]` in [0, 1], 1 where the mask covers the image.
    """
    keep = jnp.where(problem.direction == SSR, covered, 1.0 - covered)[..., None]
    return classify_infilled(problem, keep, jnp.round(keep), problem.key, classifier, generator)[1]


def _enlarge(cells: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Spreads cells `[A, h, w]` over their neighbours by a smooth maximum and upsamples them."""
    reach = _SPREAD + 1
    offsets = np.arange(-reach, reach + 1)
    distance = np.hypot(offsets[:, None], offsets[None, :])
    weights = np.exp(-2.0 * np.square(np.maximum(0.0, distance - 1.0) / _SPREAD)).astype(np.float32)
    padded = jnp.pad(cells, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    rows, columns = cells.shape[1:]
    nearby = jnp.stack(
        [
            weights[y, x] * padded[:, y : y + rows, x : x + columns]
            for y, x in np.ndindex(weights.shape)
        ]
    )
    largest = jnp.sum(jax.nn.softmax(_SHARPNESS * nearby, axis=0) * nearby, axis=0)
    return jax.vmap(upsample, in_axes=(0, None))(largest, size)


def _top(importance: jax.Array, area: jax.Array) -> jax.Array:
    """Returns float32 `[H, W]`, 1 at the most important pixels up to `area`, 0 elsewhere."""
    rank = rank_pixels(importance)
    return (rank < jnp.round(area * rank.size)).astype(jnp.float32)

"""The result: the `Explanation` of an image, and its status.

Arrays: images float32 `[H, W, C]` in [0, 1]; masks have 1 = KEEP, 0 = in-fill.
"""

import enum
from typing import TYPE_CHECKING, Any, Self

import flax.struct
import jax
import jax.numpy as jnp

from cfx_jax.classifiers import Classifier, probabilities
from cfx_jax.fido.masks import MaskLaw, rank_pixels
from cfx_jax.fido.objective import DIRECTIONS, SDR, SSR, Problem

NUM_TOP = 5
"""Number of classes whose probabilities an explanation reports."""
REGION_THRESHOLD = 0.5
"""Saliency above which a pixel belongs to the region."""
MAJORITY = 0.5
"""Success target for the status if the settings have none (`success_target` is 0)."""


def name_results(objective: str, alternatives: int) -> tuple[str, ...]:
    """Returns the names of the results of an objective: `ssr`, and `ssr_2`, ... for alternatives.

    Example:
        >>> name_results("ssr", 3)
        ('ssr', 'ssr_2', 'ssr_3')
    """
    return objective, *(f"{objective}_{number}" for number in range(2, alternatives + 1))


def label_result(name: str) -> str:
    """Returns the label of a result for display: `SSR`, or `SSR 2` for an alternative."""
    return name.upper().replace("_", " ")


def find_direction(name: str) -> float:
    """Returns the direction, `SSR` or `SDR`, of the result with this name, such as `ssr_2`."""
    return DIRECTIONS[name.partition("_")[0]]


class Status(enum.IntEnum):
    """Outcome of one explanation; `meaning` and `advice` describe each in a sentence.

    Example:
        >>> Status.UNREADABLE.meaning
        'the image could not be decoded; nothing was computed'
    """

    OK = 0
    MISCLASSIFIED = 1
    NOT_FLIPPED = 2
    NOT_PRESERVED = 3
    NON_FINITE = 4
    UNREADABLE = 5
    # Records store these numbers, so a new status is added at the end.
    INFILL_SUFFICES = 6
    NO_ALTERNATIVE = 7

    @property
    def meaning(self) -> str:
        """What the status means, for the gallery, docs and notebooks."""
        return _MEANINGS[self][0]

    @property
    def advice(self) -> str:
        """What the user can do about it."""
        return _MEANINGS[self][1]


# The success target is `Settings.success_target`, or half of the hard masks where that is 0.
_MEANINGS = {
    Status.OK: (
        "the share of hard masks that succeed reaches the success target",
        "use the explanation",
    ),
    Status.MISCLASSIFIED: (
        "the classifier does not predict the target on the original image; with a contrast or a "
        "score, the evidence for it is not above 0",
        "explain the predicted class: give no label",
    ),
    Status.NOT_FLIPPED: (
        "SDR: fewer hard masks flip the prediction than the success target",
        "the in-fill may redraw the object: try another generator, or more steps",
    ),
    Status.NOT_PRESERVED: (
        "SSR: fewer hard masks keep the prediction than the success target",
        "nearly all of the image may be needed: check the success rate, or take more steps",
    ),
    Status.NON_FINITE: (
        "the image, a logit or a gradient was NaN or infinite; the results are NaN",
        "run `Classifier.check` on the image",
    ),
    Status.UNREADABLE: (
        "the image could not be decoded; nothing was computed",
        "see the log for the reason",
    ),
    Status.INFILL_SUFFICES: (
        "SSR: fully in-filled images are predicted as the target, too, so no region is needed",
        "set a contrast, or try another generator",
    ),
    Status.NO_ALTERNATIVE: (
        "no further region was found that succeeds and overlaps little with those before",
        "use the regions before it: they are the only ones found",
    ),
}


@flax.struct.dataclass
class Explanation:
    """The learnt mask of an image and its effect; with a leading axis N from `explain`.

    Attributes:
        mask_logits: float32 `[h, w]`, logit of KEEPING each mask cell.
        keep_prob: float32 `[h, w]`, probability of keeping each mask cell.
        saliency: float32 `[H, W]` in [0, 1], larger = more important, for SSR and for SDR.
        infilled: float32 `[H, W, C]`, the image under one hard mask drawn from the learnt
            distribution, in-filled.
        status: int32, a `Status`.
        target: int32, the class explained.
        prediction: int32, the class predicted on the original image.
        log_odds_original: float32, log-odds of the target on the original image.
        log_odds_infilled: float32, mean log-odds of the target on 32 in-filled images, one for each
            hard mask drawn.
        kept_area: float32 in [0, 1], expected share of pixels kept.
        success_rate: float32 in [0, 1], share of these 32 hard masks that keep (SSR) or flip (SDR)
            the prediction of the target.
        stability: float32 in [0, 1], agreement of the learnt map with the gradients of the warm
            start, see `measure_stability`. Low = an imperceptible change of the image may lead to
            another region; None without a warm start.
        objective: float32, `penalty - evidence` of these hard masks, at full penalty and the price
            `sparsity_weight`; the evidence is `direction * log_odds_infilled`, or the capped logit
            margin, see `cfx_jax.fido.objective`.
        trace: float32 `[num_steps]`, objective of each step with its soft masks, at full penalty
            and the price `sparsity_weight`; 0 beyond the steps taken.
        steps: int32, steps taken: `num_steps`, or fewer with a `patience`.
        top_classes: int32 `[5]`, the likeliest classes by the larger of `top_before` and
            `top_after`, likeliest first; -1 beyond the number of classes, or if something was not
            finite.
        top_before: float32 `[5]`, probabilities of these classes on the original image.
        top_after: float32 `[5]`, mean probabilities of these classes on the 32 in-filled images.
    """

    mask_logits: jax.Array
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
    stability: jax.Array | None
    objective: jax.Array
    trace: jax.Array
    steps: jax.Array
    top_classes: jax.Array
    top_before: jax.Array
    top_after: jax.Array

    @property
    def region(self) -> jax.Array:
        """Bool `[H, W]`, the region: the pixels with a saliency above 1/2."""
        return self.saliency > REGION_THRESHOLD

    if TYPE_CHECKING:
        # Flax adds this method, but type checkers do not see it.
        def replace(self, **changes: Any) -> Self:
            """Returns a copy in which the given fields are replaced."""


def saliency(
    cells: jax.Array, direction: jax.Array, size: tuple[int, int], law: MaskLaw
) -> jax.Array:
    """Computes the importance of each pixel: the degree to which SSR keeps it or SDR drops it.

    Args:
        cells: float32 `[h, w]`, the learnt mask, see `cfx_jax.fido.masks`.
        direction: float32 scalar, `SSR` or `SDR`.
        size: image size `(H, W)`.
        law: mask law under which the cells were learnt.

    Returns:
        float32 `[H, W]` in [0, 1], larger = more important.
    """
    keep = law.upsample_keep(cells, size)
    return jnp.where(direction == SSR, keep, 1.0 - keep)


def measure_stability(
    cells: jax.Array, gradient_sum: jax.Array, direction: jax.Array, share: jax.Array
) -> jax.Array:
    """Measures whether the two stages of the search agree on the most important cells.

    The warm start and the learning use different masks. Both maps are thresholded at the area of
    the final region; the stability is the IoU of the two regions. Where it is low, several regions
    suffice, and an imperceptible change of the image decides between them, see docs/benchmarks.md.

    Args:
        cells: float32 `[h, w]`, the learnt map, smoothed.
        gradient_sum: float32 `[h, w]`, summed gradients of the warm start.
        direction: float32 scalar, `SSR` or `SDR`.
        share: float32 scalar, share of the image in the final region.

    Returns:
        float32 scalar in [0, 1]; 1 where the region is empty.
    """
    count = jnp.round(share * cells.size)
    learnt, prior = (rank_pixels(m) < count for m in (direction * cells, -direction * gradient_sum))
    both, either = jnp.sum(learnt & prior), jnp.sum(learnt | prior)
    return jnp.where(either > 0, both / jnp.maximum(either, 1), 1.0).astype(jnp.float32)


def find_top(
    original: jax.Array, infilled: jax.Array, classifier: Classifier
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Finds the classes that are likeliest before or after the in-filling, with probabilities.

    Args:
        original: float32 `[K]`, logits of the image.
        infilled: float32 `[S, K]`, logits of the in-filled images.
        classifier: the model that computed the logits; determines their kind, softmax or sigmoid.

    Returns:
        `top_classes`, `top_before`, `top_after` of an `Explanation`.
    """
    before = probabilities(original, classifier.logits)
    after = jnp.mean(probabilities(infilled, classifier.logits), axis=0)
    count = min(NUM_TOP, len(before))
    _, found = jax.lax.top_k(jnp.maximum(before, after), count)
    lacking = (0, NUM_TOP - count)
    classes = jnp.pad(found.astype(jnp.int32), lacking, constant_values=-1)
    return classes, jnp.pad(before[found], lacking), jnp.pad(after[found], lacking)


def assign_status(
    result: Explanation,
    problem: Problem,
    is_decided: jax.Array,
    success_target: float = MAJORITY,
    is_trivial: jax.Array | bool = False,
) -> Explanation:
    """Returns the explanation with its status; if a value is not finite, all floats are NaN.

    Args:
        result: explanation of one image; its status is replaced.
        problem: the image, its question and its objective.
        is_decided: bool scalar, whether the target is predicted on the original image.
        success_target: share of hard masks that have to succeed.
        is_trivial: bool scalar, whether all fully in-filled images are predicted as the target.

    Returns:
        An `Explanation`.
    """
    numbers = (problem.image, result.log_odds_original, result.log_odds_infilled, result.trace)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in (*numbers, result.objective)]))
    is_met = result.success_rate >= success_target
    status = jnp.select(
        [
            ~finite,
            ~is_decided,
            (problem.direction == SDR) & ~is_met,
            (problem.direction == SSR) & ~is_met,
            (problem.direction == SSR) & is_trivial,
        ],
        [
            Status.NON_FINITE,
            Status.MISCLASSIFIED,
            Status.NOT_FLIPPED,
            Status.NOT_PRESERVED,
            Status.INFILL_SUFFICES,
        ],
        Status.OK,
    )
    return blank(result.replace(status=status.astype(jnp.int32)), ~finite, jnp.nan)


def blank(result: Explanation, is_blank: jax.Array, value: float) -> Explanation:
    """Returns the explanation, or, if `is_blank`, one with a value in all fields of floats."""

    def fill(leaf: jax.Array) -> jax.Array:
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.where(is_blank, value, leaf) if is_float else leaf

    shown = jax.tree.map(fill, result)
    return shown.replace(top_classes=jnp.where(is_blank, -1, result.top_classes))

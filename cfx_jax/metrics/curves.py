"""What happens to the classifier as pixels are replaced in the order of a map.

One primitive: some pixels are kept, the rest is in-filled, and the classifier looks. With `grey` as
the generator these are the curves with a fixed value, with a network the generative ones, which do
not leave the pictures the classifier knows. All functions are of ONE image: `vmap` them.

Arrays: image float32 `[H, W, C]` in [0, 1]; map `[H, W]`, larger = more important.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.classifiers import Classifier
from cfx_jax.fido import Question, classify_infilled, make_problem, rank_pixels
from cfx_jax.generators import Generator


class Curve(NamedTuple):
    """What the classifier makes of an image at each step, float32 `[P]` each.

    Attributes:
        shares: of the pixels that are kept, in [0, 1].
        log_odds: of the target.
        probability: of the target.
    """

    shares: jax.Array
    log_odds: jax.Array
    probability: jax.Array


def deletion_curve(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    question: Question,
    importance: jax.Array,
    num_steps: int = 20,
) -> Curve:
    """Replaces the most important pixels first; the lower its area, the better the map.

    Source: Petsiuk et al., BMVC 2018 (RISE), with a fixed value there.

    Args:
        key: random key of this image, for generators that draw.
        classifier: the model explained.
        generator: what replaces pixels.
        image: float32 `[H, W, C]` in [0, 1].
        question: what is asked of the logits, `Question(target)` or more.
        importance: `[H, W]`; pixels of equal importance go row by row.
        num_steps: steps between the whole image and nothing of it.

    Returns:
        A `Curve` of `num_steps + 1` points, from all pixels kept to none.
    """
    kept = jnp.linspace(1.0, 0.0, num_steps + 1)
    # What is kept is what the map finds least important.
    return _curve(key, classifier, generator, image, question, -importance, kept)


def insertion_curve(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    question: Question,
    importance: jax.Array,
    num_steps: int = 20,
) -> Curve:
    """Keeps the most important pixels first; the higher its area, the better the map.

    Source: Petsiuk et al., BMVC 2018 (RISE), who begin with a blurred image.

    Args:
        key: as in `deletion_curve`.
        classifier: as in `deletion_curve`.
        generator: what stands for the pixels that are not there yet.
        image: as in `deletion_curve`.
        question: as in `deletion_curve`.
        importance: as in `deletion_curve`.
        num_steps: as in `deletion_curve`.

    Returns:
        A `Curve` of `num_steps + 1` points, from no pixel kept to all.
    """
    kept = jnp.linspace(0.0, 1.0, num_steps + 1)
    return _curve(key, classifier, generator, image, question, importance, kept)


def curve_area(probability: np.ndarray | jax.Array) -> np.ndarray:
    """Returns the mean probability along curves, by the trapezoid rule: float `[...]` in [0, 1].

    Args:
        probability: `[..., P]`, at P >= 2 steps of equal length, see `Curve`.
    """
    steps = np.shape(probability)[-1] - 1
    return np.asarray(np.trapezoid(probability, axis=-1) / steps)


def best_drop(deletion: Curve) -> jax.Array:
    """MNIST protocol, flip: the largest fall of the log-odds along a deletion; higher is better.

    Source: the authors' notebooks, `max_k` of `log_odds(0) - log_odds(k)`, k pixels replaced.
    """
    return deletion.log_odds[0] - jnp.min(deletion.log_odds[1:])


def best_rise(insertion: Curve) -> jax.Array:
    """MNIST protocol, keep: the largest rise of the log-odds above those of the whole image.

    The least important pixels are replaced first, which is an insertion read backwards. Higher is
    better.
    """
    return jnp.max(insertion.log_odds[:-1]) - insertion.log_odds[-1]


def crop_metric(
    classifier: Classifier, image: jax.Array, question: Question, box: jax.Array
) -> jax.Array:
    """SM: how small a box is and how sure the classifier is of what lies in it; lower is better.

    Formula: `log(max(0.05, area)) - log p(target | crop)`, the area as a share of the image and the
    crop enlarged to its size. Source: Dabkowski and Gal, NeurIPS 2017. It depends on how images are
    prepared: show the whole image, the centre box and the true box beside it. Differs from
    published code in the bicubic kernel, which is that of `jax.image`.

    Args:
        classifier: the model explained.
        image: float32 `[H, W, C]` in [0, 1].
        question: what is asked of the logits, `Question(target)` or more.
        box: float `[4]`, `x0 y0 x1 y1` in pixels; an empty one takes the whole image.

    Returns:
        float32 scalar.
    """
    height, width = image.shape[:2]
    limits = jnp.asarray([width, height, width, height], jnp.float32)
    box = jnp.clip(jnp.asarray(box, jnp.float32), 0.0, limits)
    is_empty = (box[2] <= box[0]) | (box[3] <= box[1])
    box = jnp.where(is_empty, limits * jnp.asarray([0.0, 0.0, 1.0, 1.0]), box)
    sides = box[2:] - box[:2]
    scale = jnp.asarray([height, width]) / sides[::-1]
    crop = jax.image.scale_and_translate(
        image, image.shape, (0, 1), scale, -box[1::-1] * scale, "cubic", antialias=True
    )
    logits = classifier.apply(classifier.params, jnp.clip(crop, 0.0, 1.0)[None])[0]
    evidence = question.log_odds(logits, classifier)
    area = jnp.prod(sides) / (height * width)
    return jnp.log(jnp.maximum(0.05, area)) - jax.nn.log_sigmoid(evidence)


def _curve(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    question: Question,
    importance: jax.Array,
    kept: jax.Array,
) -> Curve:
    """Looks at the image with the most important pixels kept, a share of them at each point."""
    problem = make_problem(key, image, question, "ssr")
    rank = rank_pixels(importance)

    def look(share: jax.Array) -> jax.Array:
        mask = (rank < jnp.round(share * rank.size)).astype(jnp.float32)[None, ..., None]
        _, logits = classify_infilled(problem, mask, mask, problem.key, classifier, generator)
        return logits[0]

    # One after the other, so that memory does not depend on how many there are.
    logits = jax.lax.map(look, kept)
    evidence = question.log_odds(logits, classifier)
    return Curve(kept, evidence, jax.nn.sigmoid(evidence))

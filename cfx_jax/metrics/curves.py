"""Deletion and insertion curves: predictions while pixels are replaced in the order of a map.

Each step keeps some pixels, in-fills the rest, and classifies the result. With the generator
`grey`, pixels are replaced by a fixed value; with a network, the curves are called generative, and
the images stay close to the training data of the classifier. All functions take ONE image: `vmap`
them.

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
    """Predictions at each of P steps.

    Attributes:
        shares: share of the pixels that are kept, float32 `[P]` in [0, 1].
        log_odds: log-odds of the target, float32 `[P]`.
        probability: probability of the target, float32 `[P]`.
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
    """Computes the deletion curve, which replaces the most important pixels first.

    The lower its area, the better the map. Source: Petsiuk et al., BMVC 2018 (RISE), who replace
    pixels by a fixed value.

    Args:
        key: random key for this image, for stochastic generators.
        classifier: the model to explain.
        generator: model that replaces pixels.
        image: image, float32 `[H, W, C]` in [0, 1].
        question: question about the image, for example `Question(target)`.
        importance: saliency map, float `[H, W]`; ties are broken row by row.
        num_steps: number of steps from the whole image to none of it.

    Returns:
        A `Curve` of `num_steps + 1` points, from all pixels kept to none.
    """
    kept = jnp.linspace(1.0, 0.0, num_steps + 1)
    # The least important pixels are kept longest.
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
    """Computes the insertion curve, which keeps the most important pixels first.

    The higher its area, the better the map. Source: Petsiuk et al., BMVC 2018 (RISE), who start
    from a blurred image.

    Args:
        key: random key for this image, as in `deletion_curve`.
        classifier: the model to explain.
        generator: model that fills the pixels that are not inserted yet.
        image: image, float32 `[H, W, C]` in [0, 1].
        question: question about the image, for example `Question(target)`.
        importance: saliency map, float `[H, W]`; ties are broken row by row.
        num_steps: number of steps from none of the image to the whole image.

    Returns:
        A `Curve` of `num_steps + 1` points, from no pixel kept to all.
    """
    kept = jnp.linspace(0.0, 1.0, num_steps + 1)
    return _curve(key, classifier, generator, image, question, importance, kept)


def curve_area(probability: np.ndarray | jax.Array) -> np.ndarray:
    """Computes the mean probability along curves by the trapezoid rule.

    Args:
        probability: probabilities at P >= 2 equidistant steps, float `[..., P]`, see `Curve`.

    Returns:
        Area, float `[...]` in [0, 1].
    """
    steps = np.shape(probability)[-1] - 1
    return np.asarray(np.trapezoid(probability, axis=-1) / steps)


def best_drop(deletion: Curve) -> jax.Array:
    """Returns the largest fall of the log-odds along a deletion (MNIST protocol, flip).

    Higher is better. Source: the notebooks of the FIDO authors, `max_k` of
    `log_odds(0) - log_odds(k)` with k pixels replaced.
    """
    return deletion.log_odds[0] - jnp.min(deletion.log_odds[1:])


def best_rise(insertion: Curve) -> jax.Array:
    """Returns the largest rise of the log-odds above the whole image (MNIST protocol, keep).

    Higher is better. The least important pixels are replaced first, which is an insertion in
    reverse order.
    """
    return jnp.max(insertion.log_odds[:-1]) - insertion.log_odds[-1]


def crop_metric(
    classifier: Classifier, image: jax.Array, question: Question, box: jax.Array
) -> jax.Array:
    """Computes SM, the saliency metric: log area of a box minus log-probability of its crop.

    Lower is better. Formula: `log(max(0.05, area)) - log p(target | crop)`, with the area as a
    share of the image and the crop upsampled to the size of the image. Source: Dabkowski and Gal,
    NeurIPS 2017. SM depends on the preparation of the images: report it together with SM of the
    whole image, the centre box and the true box. Differs from published code in the bicubic kernel,
    which is that of `jax.image`.

    Args:
        classifier: the model to explain.
        image: image, float32 `[H, W, C]` in [0, 1].
        question: question about the image, for example `Question(target)`.
        box: box, float `[4]`, `x0 y0 x1 y1` in pixels; an empty box is replaced by the whole image.

    Returns:
        SM, float32 scalar.
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
    """Computes the curve that keeps the most important pixels, in the shares `kept`."""
    problem = make_problem(key, image, question, "ssr")
    rank = rank_pixels(importance)

    def classify_kept(share: jax.Array) -> jax.Array:
        mask = (rank < jnp.round(share * rank.size)).astype(jnp.float32)[None, ..., None]
        _, logits = classify_infilled(problem, mask, mask, problem.key, classifier, generator)
        return logits[0]

    # Classify the points in sequence, so that the memory does not depend on their number.
    logits = jax.lax.map(classify_kept, kept)
    evidence = question.log_odds(logits, classifier)
    return Curve(kept, evidence, jax.nn.sigmoid(evidence))

"""The FIDO objective for ONE image: mask distribution, upsampling, composite, losses, penalties.

Arrays: image `[H, W, C]` in [0, 1]; masks `[S, H, W, 1]`, 1 = KEEP the pixel, 0 = in-fill it. The
learnt parameter is `mask_logits [h, w]`, the logit of the probability of KEEPING a mask cell (the
published code optimises the logit of dropping it, which is the same up to the sign).

With S masks z_s drawn from the mask distribution, generator g, classifier f and target class c:

    x_s = z_s * x + (1 - z_s) * g(x, round(z_s))
    o   = mean_s [ log p_f(c | x_s) - log sum_{k != c} p_f(k | x_s) ]            (log-odds)
    SSR = -o + w(t) * (lambda * sum KEEP + tau * TV)
    SDR = +o + w(t) * (lambda * sum DROP + tau * TV)

where KEEP and DROP are the probabilities at the pixels of the image. The soft mask goes to the
classifier, the rounded one to the generator, and no gradient passes through the in-fill.

What takes the place of the log-odds where the classes do not exclude each other, or where one class
is asked about rather than another, is told in `cfx_jax.fido.question`.

With a `margin_cap` m the evidence o is capped, because more of it than decides explains nothing:

    +-o -> -mean_s relu(m -+ logit_margin(c | x_s))
    logit_margin(c | x) = logit(c | x) - max_{k != c} logit(k | x)

With a `success_target` lambda is the price of ONE image, which rises while its masks do what is
asked and falls while they do not: the smallest region that does it, not the best bargain at a price
that suits some images. With a `perimeter_weight` the boundary of the region is charged like area.

Source: Chang, Creager, Goldenberg, Duvenaud, "Explaining Image Classifiers by Counterfactual
Generation", ICLR 2019 (arXiv 1807.08024), and the code published with it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cfx_jax.classifiers import Classifier
from cfx_jax.fido.masks import KeepMap, smooth_cells
from cfx_jax.fido.question import Question
from cfx_jax.fido.settings import Settings
from cfx_jax.generators import Generator

SSR = 1.0
"""Direction of the smallest supporting region: keep the decision with the least evidence."""
SDR = -1.0
"""Direction of the smallest deletion region: change the decision by removing the least."""
DIRECTIONS = {"ssr": SSR, "sdr": SDR}

# Of the images for which prices were chosen.
_PIXELS = 224 * 224


class Problem(NamedTuple):
    """What is asked of one image.

    Attributes:
        image: float32 `[H, W, C]` in [0, 1].
        question: what is asked of the logits; its classes are int32 scalars.
        direction: float32 scalar, `SSR` or `SDR`.
        key: random key of this example and objective.
    """

    image: jax.Array
    question: Question
    direction: jax.Array
    key: jax.Array


def make_problem(
    key: jax.Array, image: jax.Array, question: Question, objective: str | jax.Array
) -> Problem:
    """Packs what is asked of one image; the objective is folded into the key of the example.

    Args:
        key: random key of this example.
        image: float32 `[H, W, C]` in [0, 1].
        question: what is asked of the logits.
        objective: `"ssr"` or `"sdr"`, or int32, its place in `DIRECTIONS`.

    Returns:
        A `Problem`.
    """
    index = list(DIRECTIONS).index(objective) if isinstance(objective, str) else objective
    return Problem(
        image=image,
        question=jax.tree.map(lambda number: jnp.asarray(number, jnp.int32), question),
        direction=jnp.asarray([*DIRECTIONS.values()], jnp.float32)[index],
        key=jax.random.fold_in(key, index),
    )


def composite(image: jax.Array, masks: jax.Array, infills: jax.Array) -> jax.Array:
    """Blends `masks * image + (1 - masks) * infills`, `[S, H, W, C]`; infills are constants."""
    infills = jax.lax.stop_gradient(infills)
    # A mask for each channel, whose derivative is a sum of slices; that of a broadcast one is a
    # reduction over three numbers at a time, which XLA does one by one on a CPU.
    masks = jnp.concatenate([masks] * image.shape[-1], axis=-1)
    # One product, not two: its derivative with respect to the mask is one sum over the channels.
    return infills + masks * (image - infills)


def classify_infilled(
    problem: Problem,
    masks: jax.Array,
    holes: jax.Array,
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
) -> tuple[jax.Array, jax.Array]:
    """Composes the image with its in-fill under each mask and classifies the result.

    Args:
        problem: the image and what is asked of it.
        masks: float32 `[S, H, W, 1]`, weights of the blend.
        holes: float32 `[S, H, W, 1]` of exact zeros (fill) and ones (keep), for the generator.
        key: random key of the generator.
        classifier: judges the composites.
        generator: fills the holes; no gradient passes through it.

    Returns:
        `(composites [S, H, W, C], logits [S, K])`, float32.
    """
    images = jnp.broadcast_to(problem.image, (len(masks), *problem.image.shape))
    infills = generator.apply(generator.params, images, jax.lax.stop_gradient(holes), key)
    composites = composite(problem.image, masks, infills)
    return composites, classifier.apply(classifier.params, composites)


def total_variation(probabilities: jax.Array) -> jax.Array:
    """Sums the squared differences of neighbouring pixels of `[H, W]`."""
    down = jnp.square(probabilities[1:, :] - probabilities[:-1, :])
    across = jnp.square(probabilities[:, 1:] - probabilities[:, :-1])
    return jnp.sum(down) + jnp.sum(across)


def perimeter(probabilities: jax.Array) -> jax.Array:
    """Sums the slopes `|grad p|` of `[H, W]`, in pixels: of a region its perimeter, nearly.

    Of any map it is the mean perimeter of its level sets, which masks are that share one draw of
    noise (coarea formula).
    """
    # What lies beyond the last row and column is as they are.
    padded = jnp.pad(probabilities, ((0, 1), (0, 1)), mode="edge")
    down = padded[1:, :-1] - probabilities
    across = padded[:-1, 1:] - probabilities
    # A slope of zero has no direction: its root has no finite derivative.
    return jnp.sum(jnp.sqrt(jnp.square(down) + jnp.square(across) + 1e-8))


def evidence(
    logits: jax.Array, problem: Problem, classifier: Classifier, settings: Settings
) -> jax.Array:
    """Computes how much in-filled images speak for what is asked.

    Args:
        logits: float32 `[S, K]`, of in-filled images.
        problem: what is asked.
        classifier: they are from; says what they mean.
        settings: the cap.

    Returns:
        float32 `[S]`: `direction * log-odds`, or with a `margin_cap` m, at most 0,
        `-relu(m - direction * logit_margin)`.
    """
    if not settings.margin_cap:
        return problem.direction * problem.question.log_odds(logits, classifier)
    reached = problem.direction * problem.question.logit_margin(logits, classifier)
    return -jax.nn.relu(settings.margin_cap - reached)


def succeeds(logits: jax.Array, problem: Problem, classifier: Classifier) -> jax.Array:
    """Tells of each of `[S, K]` whether the decision is kept (SSR) or changed (SDR), bool `[S]`."""
    return problem.question.decides(logits, classifier) == (problem.direction == SSR)


def penalty(
    pixels: KeepMap,
    direction: jax.Array,
    settings: Settings,
    price: jax.Array | float | None = None,
) -> jax.Array:
    """Computes `lambda * (sum(KEEP or DROP) + rho * side * perimeter) + tau * TV(DROP)`.

    Over the pixels of the image, whose shorter side counts. A sum, not a mean: at 224 x 224 and
    lambda = 1e-3 a full mask costs about 50. With a `success_target` it costs that at any size, so
    that a price that begins and ends within bounds suits images of any size.

    Args:
        pixels: the mask distribution at the pixels.
        direction: `SSR` charges what is kept, `SDR` what is dropped.
        settings: lambda, rho and tau.
        price: of a pixel, of this image; None = lambda.

    Returns:
        float32 scalar.
    """
    area = jnp.where(direction == SSR, jnp.sum(pixels.keep), jnp.sum(pixels.drop))
    if settings.perimeter_weight:
        strip = settings.perimeter_weight * min(pixels.drop.shape)
        area += strip * perimeter(pixels.drop)
    if settings.success_target:
        area *= _PIXELS / pixels.drop.size
    cost = (settings.sparsity_weight if price is None else price) * area
    if settings.tv_weight:
        cost += settings.tv_weight * total_variation(pixels.drop)
    return cost


class StepValue(NamedTuple):
    """What a step tells beside its loss.

    Attributes:
        objective: at full penalty and the price of the settings, to be compared between steps.
        success: share of the masks that do what is asked.
    """

    objective: jax.Array
    success: jax.Array


def relaxed_objective(
    cells: jax.Array,
    step: jax.Array,
    problem: Problem,
    classifier: Classifier,
    generator: Generator,
    settings: Settings,
    price: jax.Array | None = None,
) -> tuple[jax.Array, StepValue]:
    """Estimates the objective of one step from S masks.

    Args:
        cells: float32 `[h, w]`, the learnt mask.
        step: int32 scalar t; decides the noise and the warm-up
            `w(t) = clip((t - warm_start_steps) / warmup_steps, 0, 1)`.
        problem: the image and what is asked of it.
        classifier: the model to explain.
        generator: fills the holes.
        settings: everything else.
        price: lambda of this image at this step; None = that of the settings.

    Returns:
        `(loss, value)`: with the penalty times w(t), which is what a step descends, and what the
        step tells beside it.
    """
    mask_key, fill_key = jax.random.split(jax.random.fold_in(problem.key, step))
    height, width = problem.image.shape[:2]
    cells = smooth_cells(cells, settings.smoothing)
    pixels = settings.mask_law.keep_map(cells, (height, width))
    masks, holes = settings.mask_law.draw(mask_key, pixels, settings.num_samples)
    _, logits = classify_infilled(problem, masks, holes, fill_key, classifier, generator)
    gain = jnp.mean(evidence(logits, problem, classifier, settings))
    cost = asked = penalty(pixels, problem.direction, settings)
    if price is not None:
        cost = penalty(pixels, problem.direction, settings, price)
    learnt_for = jnp.asarray(step, jnp.float32) - settings.warm_start_steps
    warmup = jnp.clip(learnt_for / settings.warmup_steps, 0.0, 1.0)
    success = jnp.mean(succeeds(logits, problem, classifier).astype(jnp.float32))
    return warmup * cost - gain, StepValue(asked - gain, success)

"""The FIDO objective for ONE image: mask distribution, upsampling, composite, losses, penalties.

Arrays: image `[H, W, C]` in [0, 1]; masks `[S, H, W, 1]`, 1 = KEEP the pixel, 0 = in-fill it. The
learnt parameter is `mask_logits [h, w]`, the logit of the probability of KEEPING a mask cell (the
published code optimises the logit of dropping it, which is the same up to the sign).

With S masks z_s drawn from the mask distribution, generator g, classifier f and target class c:

    x_s = z_s * x + (1 - z_s) * g(x, round(z_s))
    o   = mean_s [ log p_f(c | x_s) - log sum_{k != c} p_f(k | x_s) ]            (log-odds)
    SSR = -o + w(t) * (lambda * sum KEEP + tau * TV)
    SDR = +o + w(t) * (lambda * sum DROP + tau * TV)

where KEEP and DROP are the probabilities at the pixels of the image. The classifier gets the
composite under the soft mask, the generator gets the rounded mask, and no gradient passes through
the in-fill.

For classes that do not exclude each other, for a contrast and for a score, another quantity takes
the place of the log-odds, see `cfx_jax.fido.question`.

With a `margin_cap` m the evidence is capped, because a larger logit margin explains nothing more.
With the direction d = 1 for SSR and d = -1 for SDR, the evidence d o, which the loss subtracts, is
replaced:

    d o -> -mean_s relu(m - d logit_margin(c | x_s))
    logit_margin(c | x) = logit(c | x) - max_{k != c} logit(k | x)

During a warm start, w(t) is 0; with a `margin_cap`, the evidence is then the logit margin without
the cap. With relative prices (`Problem.prices`), each pixel is weighted by its relative price in
the sums of KEEP and DROP.

With a `success_target`, lambda is adapted to each image: this price rises while the masks keep
(SSR) or flip (SDR) the prediction, and falls while they do not. The result approaches the smallest
region that succeeds, not the best trade-off at a price that suits only some images. With a
`perimeter_weight`, a strip along the boundary of the region is charged like area.

Source: Chang, Creager, Goldenberg, Duvenaud, "Explaining Image Classifiers by Counterfactual
Generation", ICLR 2019 (arXiv 1807.08024), and the code published with it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cfx_jax.classifiers import Classifier, with_fast_convolutions
from cfx_jax.fido.masks import KeepMap, MaskLaw
from cfx_jax.fido.question import Question
from cfx_jax.fido.resampling import average_cells, smooth_cells
from cfx_jax.fido.settings import Settings
from cfx_jax.generators import Generator, infill_at_half_resolution

SSR = 1.0
"""Direction of the smallest supporting region: keep the prediction with the fewest pixels."""
SDR = -1.0
"""Direction of the smallest deletion region: flip the prediction by removing the fewest."""
DIRECTIONS = {"ssr": SSR, "sdr": SDR}
# Number of pixels of the images for which the prices were chosen.
_REFERENCE_PIXELS = 224 * 224


class Problem(NamedTuple):
    """One image with its question and objective.

    Attributes:
        image: float32 `[H, W, C]` in [0, 1].
        question: question about the image; its classes are int32 scalars.
        direction: float32 scalar, `SSR` or `SDR`.
        key: random key of this example and objective.
        prices: float32 `[H, W]`, price of each pixel of the region relative to lambda; infinite
            where the region must not be. None = 1 everywhere.
    """

    image: jax.Array
    question: Question
    direction: jax.Array
    key: jax.Array
    prices: jax.Array | None = None


def make_problem(
    key: jax.Array,
    image: jax.Array,
    question: Question,
    objective: str | jax.Array,
    prices: jax.Array | None = None,
) -> Problem:
    """Packs one image with its question and objective; folds the objective into the key.

    Args:
        key: random key of this example.
        image: float32 `[H, W, C]` in [0, 1].
        question: question about the image.
        objective: `"ssr"` or `"sdr"`, or its index in `DIRECTIONS`, int32.
        prices: relative price of each pixel, see `Problem`; None = 1 everywhere.

    Returns:
        A `Problem`.
    """
    index = list(DIRECTIONS).index(objective) if isinstance(objective, str) else objective
    return Problem(
        image=image,
        question=jax.tree.map(lambda number: jnp.asarray(number, jnp.int32), question),
        direction=jnp.asarray([*DIRECTIONS.values()], jnp.float32)[index],
        key=jax.random.fold_in(key, index),
        prices=prices,
    )


def price_allowed(allowed: jax.Array) -> jax.Array:
    """Returns the relative prices with which a region stays inside of some pixels.

    Args:
        allowed: bool `[..., H, W]`, pixels that the region may contain.

    Returns:
        float32 `[..., H, W]`, 1 where the region may be, infinite elsewhere, see `Problem`.
    """
    return jnp.where(allowed, jnp.float32(1.0), jnp.float32(jnp.inf))


def restrict(cells: jax.Array, problem: Problem, law: MaskLaw) -> jax.Array:
    """Moves the cells that touch a forbidden pixel out of the region.

    Args:
        cells: float32 `[h, w]`, see `cfx_jax.fido.masks`.
        problem: the image and, in `prices`, the pixels that the region must not contain.
        law: mask law under which the cells are learnt.

    Returns:
        float32 `[h, w]`. A cell is forbidden if `upsample` gives it any weight at a pixel of
        infinite price: SSR never keeps such a pixel, and SDR never drops it.
    """
    if problem.prices is None:
        return cells
    shape = cells.shape[0], cells.shape[1]
    is_forbidden = average_cells(jnp.isinf(problem.prices).astype(jnp.float32), shape) > 0
    dropped, kept = law.sure_cells()
    return jnp.where(is_forbidden, jnp.where(problem.direction == SSR, dropped, kept), cells)


def keep_map(cells: jax.Array, problem: Problem, law: MaskLaw) -> KeepMap:
    """Computes the mask distribution at the pixels of an image, see `restrict`."""
    height, width = problem.image.shape[:2]
    return law.keep_map(restrict(cells, problem, law), (height, width))


def noise_key(problem: Problem, settings: Settings) -> jax.Array:
    """Returns the random key of the masks of learning and of the threshold search.

    It is one key for all examples with `fixed_noise`, otherwise the key of this example.
    """
    if not settings.fixed_noise:
        return problem.key
    # `impl` is given, so that no setting of JAX changes the noise.
    return jax.random.key(0, impl="threefry2x32")


def composite(image: jax.Array, masks: jax.Array, infills: jax.Array) -> jax.Array:
    """Computes `masks * image + (1 - masks) * stop_gradient(infills)`, `[S, H, W, C]`."""
    infills = jax.lax.stop_gradient(infills)
    # Concatenate one copy of the mask per channel instead of broadcasting it. The derivative of the
    # copies is a sum of slices; that of a broadcast mask is a reduction over three numbers at a
    # time, which XLA does not vectorise on a CPU.
    masks = jnp.concatenate([masks] * image.shape[-1], axis=-1)
    # One product instead of two: its derivative by the mask is one sum over the channels.
    return infills + masks * (image - infills)


def classify_infilled(
    problem: Problem,
    masks: jax.Array,
    holes: jax.Array,
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    *,
    coarse: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Composes the image with its in-fill under each mask and classifies the composites.

    Args:
        problem: the image and its question.
        masks: float32 `[S, H, W, 1]`, weights of the composite.
        holes: float32 `[S, H, W, 1]`, binary masks for the generator: exactly 0 (fill) or 1 (keep).
        key: random key of the generator.
        classifier: classifies the composites.
        generator: fills the holes; no gradient passes through it.
        coarse: whether a `scalable` generator fills them at half the resolution.

    Returns:
        `(composites [S, H, W, C], logits [S, K])`, float32.
    """
    images = jnp.broadcast_to(problem.image, (len(masks), *problem.image.shape))
    holes = jax.lax.stop_gradient(holes)
    if coarse and generator.scalable:
        infills = infill_at_half_resolution(generator, images, holes, key)
    else:
        infills = generator.apply(generator.params, images, holes, key)
    composites = composite(problem.image, masks, infills)
    classify = with_fast_convolutions(classifier.apply)
    return composites, classify(classifier.params, composites)


def total_variation(probabilities: jax.Array) -> jax.Array:
    """Sums the squared differences of neighbouring pixels of `[H, W]`."""
    down = jnp.square(probabilities[1:, :] - probabilities[:-1, :])
    across = jnp.square(probabilities[:, 1:] - probabilities[:, :-1])
    return jnp.sum(down) + jnp.sum(across)


def perimeter(probabilities: jax.Array) -> jax.Array:
    """Sums `|grad p|` over a map `[H, W]`: approximately the perimeter of a region, in pixels.

    For any map in [0, 1], the sum is the mean perimeter of its level sets (coarea formula). If all
    pixels share one draw of noise, masks are such level sets.
    """
    # The last row and column are repeated, so that the border itself is not counted.
    padded = jnp.pad(probabilities, ((0, 1), (0, 1)), mode="edge")
    down = padded[1:, :-1] - probabilities
    across = padded[:-1, 1:] - probabilities
    # The added constant keeps the derivative of the root finite where the gradient is zero.
    return jnp.sum(jnp.sqrt(jnp.square(down) + jnp.square(across) + 1e-8))


def evidence(
    logits: jax.Array, problem: Problem, classifier: Classifier, settings: Settings
) -> jax.Array:
    """Computes the evidence of in-filled images for the objective.

    Args:
        logits: logits of the in-filled images, float32 `[S, K]`.
        problem: the image and its question.
        classifier: the model that computed the logits; determines their kind, softmax or sigmoid.
        settings: provides `margin_cap`.

    Returns:
        float32 `[S]`: `direction * log-odds`, or, with a `margin_cap` m,
        `-relu(m - direction * logit_margin)`, which is at most 0.
    """
    if not settings.margin_cap:
        return problem.direction * problem.question.log_odds(logits, classifier)
    margin = problem.direction * problem.question.logit_margin(logits, classifier)
    return -jax.nn.relu(settings.margin_cap - margin)


def succeeds(logits: jax.Array, problem: Problem, classifier: Classifier) -> jax.Array:
    """Returns whether logits `[S, K]` keep (SSR) or flip (SDR) the prediction, bool `[S]`."""
    return problem.question.decides(logits, classifier) == (problem.direction == SSR)


def penalty(
    pixels: KeepMap,
    direction: jax.Array,
    settings: Settings,
    price: jax.Array | float | None = None,
    prices: jax.Array | None = None,
) -> jax.Array:
    """Computes `lambda * (sum(KEEP or DROP) + rho * side * perimeter) + tau * TV(DROP)`.

    KEEP is charged for SSR, DROP for SDR, each pixel times its relative price. The sums run over
    the pixels of the image, and side is its shorter side. Because of the sum, a full mask costs
    about 50 at 224 x 224 and lambda = 1e-3. With a `success_target`, the area is scaled so that a
    full mask costs the same at any image size, and the same bounds of the price suit images of any
    size.

    Args:
        pixels: the mask distribution at the pixels.
        direction: `SSR` charges kept pixels, `SDR` dropped ones.
        settings: provides lambda, rho and tau.
        price: price of a pixel of this image, in place of lambda; None = lambda.
        prices: relative price of each pixel, see `Problem`; None = 1 everywhere.

    Returns:
        float32 scalar.
    """
    keep, drop = pixels.keep, pixels.drop
    if prices is not None:
        # No forbidden pixel is in the region, so its price does not matter.
        relative = jnp.where(jnp.isinf(prices), 1.0, prices)
        keep, drop = relative * keep, relative * drop
    area = jnp.where(direction == SSR, jnp.sum(keep), jnp.sum(drop))
    if settings.perimeter_weight:
        strip = settings.perimeter_weight * min(pixels.drop.shape)
        area += strip * perimeter(pixels.drop)
    if settings.success_target:
        area *= _REFERENCE_PIXELS / pixels.drop.size
    cost = (settings.sparsity_weight if price is None else price) * area
    if settings.tv_weight:
        cost += settings.tv_weight * total_variation(pixels.drop)
    return cost


class StepValue(NamedTuple):
    """Values of one step in addition to its loss.

    Attributes:
        objective: objective without the warm-up factor w(t) and at the initial price
            `sparsity_weight`, so that steps are comparable.
        success: share of the masks that keep (SSR) or flip (SDR) the prediction.
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
        step: int32 scalar t; determines the noise and the warm-up
            `w(t) = clip((t - warm_start_steps) / warmup_steps, 0, 1)`.
        problem: the image and its question.
        classifier: the model to explain.
        generator: fills the holes.
        settings: the hyper-parameters.
        price: lambda of this image at this step; None = `sparsity_weight`.

    Returns:
        `(loss, value)`: the loss that a step minimises, with the penalty times w(t), and the
        `StepValue`.
    """
    fill_key = jax.random.split(jax.random.fold_in(problem.key, step))[1]
    mask_key = jax.random.split(jax.random.fold_in(noise_key(problem, settings), step))[0]
    pixels = keep_map(smooth_cells(cells, settings.smoothing), problem, settings.mask_law)
    masks, holes = settings.mask_law.draw(
        mask_key, pixels, settings.num_samples, antithetic=settings.fixed_noise
    )
    models, coarse = (classifier, generator), settings.coarse_infill
    _, logits = classify_infilled(problem, masks, holes, fill_key, *models, coarse=coarse)
    mean_evidence = learnt_evidence = jnp.mean(evidence(logits, problem, classifier, settings))
    if settings.margin_cap and settings.warm_start_steps:
        # Where all masks exceed the cap, an image that is easy to classify has no gradient.
        margin = problem.direction * jnp.mean(problem.question.logit_margin(logits, classifier))
        is_warm_start = step < settings.warm_start_steps
        learnt_evidence = jnp.where(is_warm_start, margin, mean_evidence)
    full_cost = cost = penalty(pixels, problem.direction, settings, prices=problem.prices)
    if price is not None:
        cost = penalty(pixels, problem.direction, settings, price, problem.prices)
    learning_step = jnp.asarray(step, jnp.float32) - settings.warm_start_steps
    warmup = jnp.clip(learning_step / settings.warmup_steps, 0.0, 1.0)
    success = jnp.mean(succeeds(logits, problem, classifier).astype(jnp.float32))
    return warmup * cost - learnt_evidence, StepValue(full_cost - mean_evidence, success)

"""The public functions `explain`, `explain_both` and `explain_one`: checks, keys and batches.

`explain` solves the problems of a batch (`cfx_jax.fido.solution`) in one vmapped, compiled program.

Arrays: images float32 `[N, H, W, C]` in [0, 1]; masks have 1 = KEEP, 0 = in-fill.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax import numerics
from cfx_jax.classifiers import Classifier
from cfx_jax.fido import checks
from cfx_jax.fido.alternatives import solve_alternatives
from cfx_jax.fido.batch import make_question, map_batches, predict, prepare
from cfx_jax.fido.explanation import Explanation
from cfx_jax.fido.objective import DIRECTIONS, Problem, make_problem
from cfx_jax.fido.question import Question, Score
from cfx_jax.fido.settings import Settings, get_settings
from cfx_jax.generators import Generator, check_fills, check_key, to_array


@numerics.jax_config(numerics.API_CONFIG)
def explain_one(
    key: jax.Array | int,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array | np.ndarray,
    target: jax.Array | np.ndarray | int | None = None,
    *,
    objective: str = "ssr",
    mode: str = "region",
    contrast: int | None = None,
    score: Score | None = None,
    allowed: jax.Array | np.ndarray | None = None,
    **overrides: Any,
) -> Explanation:
    """Explains one image: a plain function of arrays, for your own `jit`, `vmap` or `pmap`.

    Differs from `explain`: it is not compiled, it does not check the range of the pixels, the
    in-fills, nor whether `contrast` equals `target`, and it does not fold the pixels into `key`.
    Pass a different key for every image.

    Args:
        key: random key for this image, as in `explain`.
        classifier: the model to explain.
        generator: fills the holes.
        image: float32 `[H, W, C]` in [0, 1].
        target: class to explain; None takes the predicted class.
        objective: `"ssr"` or `"sdr"`.
        mode: `"region"`, `"fast"`, `"paper"` or `"bbmp"`.
        contrast: as in `explain`.
        score: as in `explain`.
        allowed: bool `[H, W]`, as in `explain`.
        **overrides: fields of `cfx_jax.fido.settings.Settings`.

    Returns:
        An `Explanation` without the leading axis N.

    Raises:
        ValueError: a shape, a name or a setting is invalid.

    Example:
        >>> import functools, jax, jax.numpy as jnp, cfx_jax
        >>> classifier = cfx_jax.Classifier(params=(), apply=lambda _, x: x.mean((1, 2)))
        >>> generator = cfx_jax.load_generator("grey")
        >>> explain_red = jax.vmap(functools.partial(
        ...     cfx_jax.explain_one, target=0, num_steps=2, mask_size=4
        ... ), in_axes=(0, None, None, 0))
        >>> keys, images = jax.random.split(jax.random.key(0), 5), jnp.ones((5, 8, 8, 3))
        >>> explain_red(keys, classifier, generator, images).saliency.shape
        (5, 8, 8)
    """
    settings = get_settings(mode, **overrides)
    question = make_question(target, contrast, score)
    image = to_array("image", image)
    if image.ndim != 3:
        raise ValueError(
            f"image has shape {image.shape}; expected [H, W, C]: vmap over a batch, or call explain"
        )
    images = checks.check_problem(classifier, generator, image[None], objective, settings, contrast)
    num_classes = checks.count_classes(classifier, images)
    if target is None:
        target = predict(classifier, images)[0]
    else:
        target = checks.check_classes("target", target, (), num_classes)
    question, prices = question.replace(target=target), None
    if contrast is not None:
        other = checks.check_classes("contrast", contrast, (), num_classes)
        question = question.replace(contrast=other)
    if allowed is not None:
        prices = checks.check_allowed(allowed, images, settings.mask_size)[0]
    problem = make_problem(check_key(key), images[0], question, objective, prices)
    return solve_alternatives(problem, classifier, generator, settings=settings)


@numerics.jax_config(numerics.API_CONFIG)
def explain(
    key: jax.Array | int,
    classifier: Classifier,
    generator: Generator,
    images: jax.Array | np.ndarray,
    targets: jax.Array | np.ndarray | None = None,
    *,
    objective: str = "ssr",
    mode: str = "region",
    contrast: int | None = None,
    score: Score | None = None,
    allowed: jax.Array | np.ndarray | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **overrides: Any,
) -> Explanation:
    """Explains a batch of images.

    The key of an image is derived from `key`, the pixels of the image and the objective, not from
    its index in the batch: the same image gives the same mask alone, in any batch and in any order.
    Settings of JAX do not change the result, whatever random number generator is the default,
    except `jax_default_matmul_precision`, and `jax_enable_x64` if it changes the type of the
    classifier or the generator.

    Args:
        key: random key for the whole batch, of `jax.random.key` or `jax.random.PRNGKey`, or a seed,
            a whole number.
        classifier: the model to explain.
        generator: fills the holes.
        images: float32 `[N, H, W, C]`, RGB in [0, 1].
        targets: int `[N]`, classes to explain; None takes the predicted classes.
        objective: `"ssr"`, the smallest region that keeps the prediction when the rest is
            in-filled, or `"sdr"`, the smallest region whose in-filling flips the prediction.
        mode: `"region"` (default): the smallest region, of few connected parts, with which a given
            share of hard masks succeeds. It does not depend on `key`, unless the generator draws
            random numbers. `"fast"`: independent pixels, the best objective. `"paper"`: as
            published. `"bbmp"`: a deterministic mask.
        contrast: a class k, for the question "why the target rather than k?" in place of "why the
            target?". The evidence is `log p(target) - log p(k)`, and the target counts as predicted
            where this is above 0, even if a third class is more likely.
        score: `score(logits [..., K], target) -> [...]`, a user-defined question. The score is the
            evidence, and the target counts as predicted where the score is above 0. Define the
            function once, because every new function object is compiled anew.
        allowed: bool `[H, W]` or `[N, H, W]`, pixels that the region may contain, for example all
            except a watermark; None = all pixels. The region also keeps a distance of one cell to
            the other pixels.
        batch_size: largest number of images to optimise together; None = 4 per CPU device, 64 per
            accelerator. It changes the memory, about 45 MB per image for EfficientNet-Lite0, and
            the speed, but not the result. With traced images, all are one batch.
        progress: called with the number of finished images and N after each batch.
        **overrides: fields of `cfx_jax.fido.settings.Settings`, for example `num_steps=30`, or
            `alternatives=3`, which searches for up to three regions.

    Returns:
        An `Explanation` whose fields have a leading axis N, or, with K > 1 `alternatives`, the axes
        `[N, K]`. An image that cannot be explained has a `Status` other than `OK`; it does not
        affect the other images.

    Raises:
        ValueError: an argument has the wrong shape, type or range; the message names it, what was
            expected and what to do.

    Example:
        >>> import jax, jax.numpy as jnp, cfx_jax
        >>> classifier = cfx_jax.Classifier(params=(), apply=lambda _, x: x.mean((1, 2)))
        >>> generator = cfx_jax.load_generator("grey")
        >>> images = jnp.ones((2, 8, 8, 3))
        >>> e = cfx_jax.explain(jax.random.key(0), classifier, generator, images, mask_size=4)
        >>> e.keep_prob.shape, e.saliency.shape
        ((2, 4, 4), (2, 8, 8))
    """
    question = make_question(targets, contrast, score)
    settings = get_settings(mode, **overrides)
    arguments = (key, classifier, generator, images, question, allowed, settings)
    return _explain_objectives((objective,), *arguments, batch_size, progress)[objective]


@numerics.jax_config(numerics.API_CONFIG)
def explain_both(
    key: jax.Array | int,
    classifier: Classifier,
    generator: Generator,
    images: jax.Array | np.ndarray,
    targets: jax.Array | np.ndarray | None = None,
    *,
    mode: str = "region",
    contrast: int | None = None,
    score: Score | None = None,
    allowed: jax.Array | np.ndarray | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    **overrides: Any,
) -> dict[str, Explanation]:
    """Explains a batch of images with SSR and with SDR, in one compiled program.

    Args:
        key: random key, as in `explain`; the masks equal those of two separate calls.
        classifier: as in `explain`.
        generator: as in `explain`.
        images: as in `explain`.
        targets: as in `explain`.
        mode: as in `explain`.
        contrast: as in `explain`.
        score: as in `explain`.
        allowed: as in `explain`.
        batch_size: as in `explain`; an image counts twice, once per objective.
        progress: as in `explain`; an image counts twice.
        **overrides: as in `explain`.

    Returns:
        `{"ssr": Explanation, "sdr": Explanation}`.

    Raises:
        ValueError: as in `explain`.
    """
    question = make_question(targets, contrast, score)
    settings = get_settings(mode, **overrides)
    arguments = (key, classifier, generator, images, question, allowed, settings)
    return _explain_objectives(tuple(DIRECTIONS), *arguments, batch_size, progress)


def _explain_objectives(
    objectives: tuple[str, ...],
    key: jax.Array | int,
    classifier: Classifier,
    generator: Generator,
    images: jax.Array | np.ndarray,
    question: Question,
    allowed: jax.Array | np.ndarray | None,
    settings: Settings,
    batch_size: int | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Explanation]:
    contrast = question.contrast
    checks.check_batch_size(batch_size)
    checked = [
        checks.check_problem(classifier, generator, images, objective, settings, contrast)
        for objective in objectives
    ]
    if not isinstance(checked[0], jax.core.Tracer):
        check_fills(generator, checked[0].shape[1:])
    prices = None
    if allowed is not None:
        prices = checks.check_allowed(allowed, checked[0], settings.mask_size)
    examples = prepare(key, classifier, checked[0], question, batch_size)
    problems = [
        jax.vmap(functools.partial(make_problem, objective=o))(*examples, prices=prices)
        for o in objectives
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *problems)
    solve = functools.partial(
        _solve_batch, classifier=classifier, generator=generator, settings=settings
    )
    solved = map_batches(solve, stacked, batch_size, progress)
    n = len(checked[0])
    return {
        o: jax.tree.map(lambda leaf, i=i: leaf[i * n : (i + 1) * n], solved)
        for i, o in enumerate(objectives)
    }


@functools.partial(jax.jit, static_argnames="settings")
def _solve_batch(
    problems: Problem, classifier: Classifier, generator: Generator, settings: Settings
) -> Explanation:
    solve_one = functools.partial(solve_alternatives, settings=settings)
    return jax.vmap(solve_one, in_axes=(0, None, None))(problems, classifier, generator)

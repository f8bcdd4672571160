"""Other saliency methods as baselines, all called through `attribute`.

Each method is a pure function of one `Case`, an image with its question and the models; it returns
a map `[H, W]`, larger = more important. `attribute` maps it over a batch in one compiled program.
Methods that replace pixels do so with the generator, like `explain`; with `grey` they work as in
their papers.

Arrays: images float32 `[N, H, W, C]` in [0, 1].
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax import numerics
from cfx_jax.baselines.case import Case
from cfx_jax.baselines.controls import centre, random, uniform
from cfx_jax.baselines.gradients import (
    find_last_maps,
    grad_cam,
    gradient,
    gradient_x_input,
    integrated_gradients,
    smooth_grad,
)
from cfx_jax.baselines.masks import bbmp_sdr, bbmp_ssr, extremal
from cfx_jax.baselines.removal import occlusion, rise
from cfx_jax.classifiers import Classifier
from cfx_jax.fido import Question, Score, make_question, prepare
from cfx_jax.generators import Generator, check_images, check_infills

__all__ = ["METHODS", "Case", "Method", "attribute", "find_last_maps", "unsupported_reason"]

Method = Callable[[Case], jax.Array]

METHODS: dict[str, Method] = {
    "gradient": gradient,
    "gradient_x_input": gradient_x_input,
    "smooth_grad": smooth_grad,
    "integrated_gradients": integrated_gradients,
    "grad_cam": grad_cam,
    "occlusion": occlusion,
    "rise": rise,
    "bbmp_ssr": bbmp_ssr,
    "bbmp_sdr": bbmp_sdr,
    "extremal": extremal,
    "random": random,
    "centre": centre,
    "uniform": uniform,
}
"""Methods by name; the last three ignore the classifier and serve as controls."""


def unsupported_reason(method: str, classifier: Classifier, shape: tuple[int, int, int]) -> str:
    """Returns the reason why a method cannot explain a classifier, without running either.

    Args:
        method: name of the method, a key of `METHODS`.
        classifier: the model to explain.
        shape: image shape `(H, W, C)`.

    Returns:
        The reason, or "" if the method supports the classifier.
    """
    if method == "grad_cam":
        try:
            find_last_maps(classifier, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
        except ValueError as error:
            return str(error)
    return ""


@numerics.jax_config(numerics.API_CONFIG)
def attribute(
    method: str,
    key: jax.Array | int,
    classifier: Classifier,
    generator: Generator,
    images: jax.Array | np.ndarray,
    targets: jax.Array | np.ndarray | None = None,
    *,
    contrast: int | None = None,
    score: Score | None = None,
) -> jax.Array:
    """Explains a batch of images by a baseline method.

    Args:
        method: name of the method, a key of `METHODS`.
        key: random key or seed for the whole batch; a checksum of the pixels is folded in for
            each image, as in `explain`.
        classifier: the model to explain.
        generator: model that replaces pixels, for methods that do so.
        images: images, float32 `[N, H, W, C]` in [0, 1].
        targets: classes to explain, int `[N]`; None = the predicted classes.
        contrast: class to contrast with the target, as in `cfx_jax.explain`.
        score: function of the logits, as in `cfx_jax.explain`.

    Returns:
        Saliency maps, float32 `[N, H, W]`, larger = more important, on the scale of the method.

    Raises:
        ValueError: the method is unknown (the known names are listed), or an argument has the wrong
            shape, type or range.

    Example:
        >>> import jax, jax.numpy as jnp, cfx_jax
        >>> classifier = cfx_jax.Classifier(params=(), apply=lambda _, x: x.mean((1, 2)))
        >>> images = jnp.ones((2, 8, 8, 3))
        >>> grey = cfx_jax.load_generator("grey")
        >>> attribute("gradient", jax.random.key(0), classifier, grey, images).shape
        (2, 8, 8)
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known are {', '.join(METHODS)}")
    images = check_images(images)
    check_infills(generator, images)
    examples = prepare(key, classifier, images, make_question(targets, contrast, score))
    return _attribute(*examples, classifier, generator, method=method)


@functools.partial(jax.jit, static_argnames="method")
def _attribute(
    keys: jax.Array,
    images: jax.Array,
    questions: Question,
    classifier: Classifier,
    generator: Generator,
    method: str,
) -> jax.Array:
    # Explain images in sequence, since a method may need a thousand evaluations per image.
    return jax.lax.map(
        lambda example: METHODS[method](Case(example[0], classifier, generator, *example[1:])),
        (keys, images, questions),
    )

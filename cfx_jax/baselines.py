"""Other saliency methods, to compare with: maps of a classifier's decision, one call for all.

Each method is a pure function of ONE image, `(key, classifier, generator, image, target)` -> map
`[H, W]`, larger = more important; `attribute` maps one over a batch in a single compiled program.
Methods that replace pixels do so with the generator, like `explain`; with `grey` they do what their
papers do.

Arrays: images float32 `[N, H, W, C]` in [0, 1].
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cfx_jax import checks
from cfx_jax.classifiers import Classifier
from cfx_jax.explain import image_checksums, predict
from cfx_jax.generators import Generator
from cfx_jax.objective import infill, log_odds, make_problem

Method = Callable[[jax.Array, Classifier, Generator, jax.Array, jax.Array], jax.Array]


def attribute(
    method: str,
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    images: jax.Array,
    targets: jax.Array | None = None,
) -> jax.Array:
    """Explains a batch of images by another method.

    Args:
        method: a name of `METHODS`.
        key: random key of the run; each image folds a checksum of its pixels in, as in `explain`.
        classifier: the model to explain.
        generator: what replaces pixels, where the method replaces any.
        images: float32 `[N, H, W, C]` in [0, 1].
        targets: int `[N]`; None takes the predicted classes.

    Returns:
        float32 `[N, H, W]`, larger = more important, on the scale of the method.

    Raises:
        ValueError: the method is unknown (the known ones are listed), or an argument has the wrong
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
    images = checks.check_images(images)
    checks.check_infills(generator, images)
    checks.check_values(classifier, images, targets)
    if targets is None:
        targets = predict(classifier, images)
    return _attribute(key, classifier, generator, images, jnp.asarray(targets), method=method)


@functools.partial(jax.jit, static_argnames="method")
def _attribute(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    images: jax.Array,
    targets: jax.Array,
    method: str,
) -> jax.Array:
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, image_checksums(images))
    one = METHODS[method]
    # One image after the other: a method may look at an image a thousand times.
    return jax.lax.map(
        lambda row: one(row[0], classifier, generator, row[1], row[2]), (keys, images, targets)
    )


def gradient(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    target: jax.Array,
) -> jax.Array:
    """The largest absolute slope of the logit over the channels (Simonyan et al., 2014)."""
    del key, generator
    return jnp.max(jnp.abs(_slope(classifier, image, target)), axis=-1)


def gradient_x_input(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    target: jax.Array,
) -> jax.Array:
    """The slope of the logit times the pixel, summed over the channels (Shrikumar et al., 2016)."""
    del key, generator
    return jnp.sum(image * _slope(classifier, image, target), axis=-1)


def smooth_grad(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    target: jax.Array,
    num_draws: int = 32,
    spread: float = 0.15,
) -> jax.Array:
    """The mean slope under noise of 15 % of the image's range (Smilkov et al., 2017)."""
    del generator
    sigma = spread * (image.max() - image.min())

    def slope(key: jax.Array) -> jax.Array:
        noise = sigma * jax.random.normal(key, image.shape)
        return _slope(classifier, image + noise, target)

    slopes = jax.lax.map(slope, jax.random.split(key, num_draws))
    return jnp.max(jnp.abs(slopes.mean(axis=0)), axis=-1)


def integrated_gradients(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    target: jax.Array,
    num_steps: int = 32,
) -> jax.Array:
    """Slopes along the way from black to the image, times the image (Sundararajan et al., 2017).

    By the midpoint rule. The map adds up to the difference of the logits of the image and of black.
    """
    del key, generator
    places = (jnp.arange(num_steps) + 0.5) / num_steps
    slopes = jax.lax.map(lambda share: _slope(classifier, share * image, target), places)
    return jnp.sum(image * slopes.mean(axis=0), axis=-1)


def grad_cam(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    target: jax.Array,
) -> jax.Array:
    """What the last feature maps say for the class, enlarged (Selvaraju et al., ICCV 2017).

    Formula: `relu(sum_k a_k A_k)`, A_k the last maps `[h, w]` that a Flax module of the classifier
    returns before they are pooled, a_k the mean slope of the logit over them. For convolutional
    networks in Flax Linen; a transformer has no such maps.

    Raises:
        ValueError: no module of the classifier returns maps.
    """
    del key, generator
    place, shape = _last_maps(classifier, image)

    def logit(change: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen: list[jax.Array] = []

        def add(maps: jax.Array) -> jax.Array:
            seen.append(maps)
            return maps + change if len(seen) == place + 1 else maps

        with nn.intercept_methods(_on_maps(add)):
            logits = classifier.apply(classifier.params, image[None])
        return logits[0, target], seen[place]

    slopes, maps = jax.grad(logit, has_aux=True)(jnp.zeros(shape))
    weights = slopes.mean(axis=(1, 2), keepdims=True)
    coarse = jax.nn.relu(jnp.sum(weights * maps, axis=-1))[0]
    return jax.image.resize(coarse, image.shape[:2], "linear")


def occlusion(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    target: jax.Array,
    num_windows: int = 14,
) -> jax.Array:
    """p_b: how far the log-odds fall when a window is in-filled, averaged over windows on a pixel.

    Source: prediction difference analysis (Zintgraf et al., 2017) in the form of the FIDO code.
    Windows are a seventh of the image wide and overlap by half.
    """
    height, width = image.shape[:2]
    tall, wide = max(1, 2 * height // num_windows), max(1, 2 * width // num_windows)
    problem = make_problem(key, image, target, "sdr")
    before = log_odds(classifier.apply(classifier.params, image[None])[0], target)
    tops, lefts = (
        jnp.round(jnp.linspace(0, length - side, min(num_windows, length - side + 1)))
        for length, side in ((height, tall), (width, wide))
    )
    rows, columns = jnp.arange(height), jnp.arange(width)

    def fall(corner: jax.Array) -> tuple[jax.Array, jax.Array]:
        down = (rows >= corner[0]) & (rows < corner[0] + tall)
        across = (columns >= corner[1]) & (columns < corner[1] + wide)
        window = (down[:, None] & across[None, :]).astype(jnp.float32)
        keep = 1.0 - window[None, ..., None]
        _, logits = infill(problem, keep, keep, problem.key, classifier, generator)
        return (before - log_odds(logits[0], target)) * window, window

    def add(sums: tuple[jax.Array, jax.Array], corner: jax.Array) -> tuple[tuple, None]:
        return jax.tree.map(jnp.add, sums, fall(corner)), None

    corners = jnp.stack(jnp.meshgrid(tops, lefts, indexing="ij"), axis=-1).reshape(-1, 2)
    blank = jnp.zeros((height, width))
    (falls, covered), _ = jax.lax.scan(add, (blank, blank), corners)
    return falls / covered


def rise(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    target: jax.Array,
    num_masks: int = 1000,
    cells: int = 7,
) -> jax.Array:
    """Random smooth masks, weighted with the probability they leave (Petsiuk et al., BMVC 2018).

    Masks of 7 x 7 cells, each kept with probability 1/2, enlarged and shifted at random. Differs
    from the paper in that masked pixels are in-filled: a soft mask blends the image with what the
    generator puts where less than half is kept.
    """
    height, width = image.shape[:2]
    side = -(-max(height, width) // cells)
    large = (cells + 1) * side

    def look(sums: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
        cell_key, shift_key, fill_key = jax.random.split(key, 3)
        kept = jax.random.bernoulli(cell_key, 0.5, (cells + 1, cells + 1)).astype(jnp.float32)
        smooth = jax.image.resize(kept, (large, large), "linear")
        start = jax.random.randint(shift_key, (2,), 0, side)
        mask = jax.lax.dynamic_slice(smooth, tuple(start), (height, width))[None, ..., None]
        problem = make_problem(fill_key, image, target, "ssr")
        _, logits = infill(problem, mask, jnp.round(mask), fill_key, classifier, generator)
        return sums + jax.nn.softmax(logits[0])[target] * mask[0, ..., 0], None

    sums, _ = jax.lax.scan(look, jnp.zeros((height, width)), jax.random.split(key, num_masks))
    return sums / (0.5 * num_masks)


def random(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    target: jax.Array,
) -> jax.Array:
    """A control: noise, every order of the pixels as likely."""
    del classifier, generator, target
    return jax.random.uniform(key, image.shape[:2])


def centre(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    target: jax.Array,
) -> jax.Array:
    """A control: the nearer the centre the more important, 1 there and 0 in the corners."""
    del key, classifier, generator, target
    y, x = (jnp.linspace(-1.0, 1.0, length) for length in image.shape[:2])
    return 1.0 - jnp.sqrt((jnp.square(y)[:, None] + jnp.square(x)[None, :]) / 2)


def uniform(
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    image: jax.Array,
    target: jax.Array,
) -> jax.Array:
    """A control: every pixel as important."""
    del key, classifier, generator, target
    return jnp.ones(image.shape[:2])


METHODS: dict[str, Method] = {
    "gradient": gradient,
    "gradient_x_input": gradient_x_input,
    "smooth_grad": smooth_grad,
    "integrated_gradients": integrated_gradients,
    "grad_cam": grad_cam,
    "occlusion": occlusion,
    "rise": rise,
    "random": random,
    "centre": centre,
    "uniform": uniform,
}
"""By name; the last three do not look at the classifier and are controls."""


def _slope(classifier: Classifier, image: jax.Array, target: jax.Array) -> jax.Array:
    def logit(image: jax.Array) -> jax.Array:
        return classifier.apply(classifier.params, image[None])[0, target]

    return jax.grad(logit)(image)


def _on_maps(function: Callable[[jax.Array], jax.Array]) -> Callable[..., Any]:
    """Applies a function to whatever a Flax module returns that has rows and columns."""

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        result = call(*args, **kwargs)
        is_maps = context.method_name == "__call__" and jnp.ndim(result) == 4
        return function(result) if is_maps and min(result.shape[1:3]) > 1 else result

    return intercept


def _last_maps(classifier: Classifier, image: jax.Array) -> tuple[int, tuple[int, ...]]:
    """Returns how many maps come before the last ones, and their shape; runs nothing."""
    shapes: list[tuple[int, ...]] = []

    def note(maps: jax.Array) -> jax.Array:
        shapes.append(maps.shape)
        return maps

    with nn.intercept_methods(_on_maps(note)):
        jax.eval_shape(classifier.apply, classifier.params, image[None])
    if not shapes:
        raise ValueError(
            f"classifier {classifier.name!r} has no feature maps that a module of Flax Linen "
            "returns, so there is no Grad-CAM of it"
        )
    return len(shapes) - 1, shapes[-1]

"""Figures of explanations for notebooks and slides."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.fido import Explanation, Status
from cfx_jax.generators import check_pixels
from cfx_jax.report import pictures, show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_ROWS = 16
_SIDE = 2.6  # Side of a panel, in inches.
_DPI = 120


@pictures.plain_text
def figure(
    explanation: Explanation,
    images: np.ndarray | jax.Array | None = None,
    *,
    class_names: Sequence[str] = (),
) -> "Figure":
    """Draws each explanation as a row: original image, saliency and in-filled image.

    Args:
        explanation: explanation of one image, or of N images; the first 16 are drawn.
        images: explained images, `[N, H, W, C]` in [0, 1], without N for a single image; None omits
            them.
        class_names: names of the classes, by number.

    Returns:
        A `matplotlib.figure.Figure`, which notebooks display. Each row has the image and its
        probability, the saliency with an outline around half of its mass, and the image in-filled
        under a hard mask and its probability.

    Raises:
        TypeError: `explanation` is not an `Explanation`.
        ValueError: it contains no explanation, the number of images differs from the number of
            explanations, or the images have another size or are not in [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp, cfx_jax
        >>> model = cfx_jax.Classifier(
        ...     params=jnp.eye(3), apply=lambda params, images: 9 * images.mean((1, 2)) @ params
        ... )
        >>> images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
        >>> grey = cfx_jax.load_generator("grey")
        >>> e = cfx_jax.explain(jax.random.key(1), model, grey, images, num_steps=2, mask_size=4)
        >>> drawn = figure(e, images, class_names=["red", "green", "blue"])
        >>> len(drawn.axes)
        6
    """
    found = jax.tree.map(np.asarray, _check_explanation(explanation))
    if found.status.ndim == 0:
        found = jax.tree.map(lambda leaf: leaf[None], found)
        images = None if images is None else np.asarray(images)[None]
    expected = found.infilled.shape
    if images is not None:
        images = _check_images(np.asarray(images), expected)
    count = min(len(found.status), _MAX_ROWS)
    columns = 2 if images is None else 3
    drawn = pictures.make_figure(_SIDE * columns, (_SIDE + 0.35) * count, dpi=_DPI)
    axes = drawn.subplots(count, columns, squeeze=False)
    for row in range(count):
        one = jax.tree.map(lambda leaf, row=row: leaf[row], found)
        photo = None if images is None else pictures.to_pixels(np.nan_to_num(images[row]))
        _draw_row(axes[row], one, photo, class_names)
    # Notebooks display only figures of pyplot, which keeps figures until they are closed.
    drawn._repr_png_ = lambda: _encode(drawn)
    return drawn


def _check_explanation(explanation: Any) -> Explanation:
    if isinstance(explanation, Mapping) and explanation:
        names = " and ".join(f"[{name!r}]" for name in explanation)
        raise TypeError(f"there are several explanations, {names}; draw one of them at a time")
    if not isinstance(explanation, Explanation):
        raise TypeError(
            f"a {type(explanation).__name__} is no Explanation; expected what cfx_jax.explain "
            "returns"
        )
    shape = np.shape(explanation.status)
    if len(shape) > 1 or 0 in shape:
        raise ValueError(
            f"status has shape {list(shape)}; expected the explanation of one image, or of N >= 1"
        )
    return explanation


def _check_images(images: np.ndarray, expected: tuple[int, ...]) -> np.ndarray:
    if images.shape != expected:
        raise ValueError(
            f"images have shape {list(images.shape)}; expected {list(expected)}, those explained"
        )
    check_pixels(jnp.asarray(images))
    return images


def _draw_row(
    axes: Sequence[Any], one: Explanation, photo: np.ndarray | None, class_names: Sequence[str]
) -> None:
    target = int(one.target)
    name = class_names[target] if target < len(class_names) else f"class {target}"
    after = (
        f"{show.probability(one.log_odds_infilled)} after, {Status(int(one.status)).name.lower()}"
    )
    infilled = pictures.to_pixels(np.nan_to_num(one.infilled))
    before = f"{name}\n{show.probability(one.log_odds_original)} before"
    panels = [] if photo is None else [(photo, before)]
    area = f"→ what matters\narea kept {show.percent(one.kept_area)}"
    panels.append((_overlay(one.saliency, photo), area))
    panels.append((infilled, f"→ in-filled\n{after}"))
    for axis, (picture, title) in zip(axes, panels, strict=True):
        axis.imshow(picture, origin="upper")
        # A dollar sign in a class name does not start a formula.
        axis.set_title(title, fontsize=9, parse_math=False)
        axis.axis("off")


def _overlay(saliency: Any, photo: np.ndarray | None) -> np.ndarray:
    if np.isnan(saliency).any():
        return np.full((*saliency.shape, 3), 255, np.uint8) if photo is None else photo
    return pictures.draw_edge(pictures.overlay(saliency, photo), pictures.half_region(saliency))


def _encode(drawn: Any) -> bytes:
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png")
    return buffer.getvalue()

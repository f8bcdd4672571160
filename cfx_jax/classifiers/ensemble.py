"""Several classifiers as one: what do they all rest on?"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cfx_jax.classifiers.base import Classifier


def average(classifiers: Sequence[Classifier]) -> Classifier:
    """Makes one classifier of several: its logits are the mean of their log-probabilities.

    Formula: `logits(k | x) = mean_m log p_m(k | x)`, or where classes do not exclude each other the
    mean of their logits, which are log-odds then, so a mask that is learnt with it has to
    convince all of them: what one network alone sees in a pattern counts little.

    Args:
        classifiers: at least one, of the same classes, channels and class names; all are shown
            images of the size of the first. Other classes show when it is called.

    Returns:
        A `Classifier` whose parameters are a tuple of theirs; its name and image size are those of
        the first, the name followed by those of the others.

    Raises:
        ValueError: there is none, or they do not fit together.

    Example:
        >>> import jax.numpy as jnp
        >>> def apply(params, images):
        ...     return params * images.mean((1, 2))
        >>> one, other = (Classifier(params=p, apply=apply) for p in (1.0, 3.0))
        >>> both = average([one, other])
        >>> both.name, both.apply(both.params, jnp.ones((5, 8, 8, 3))).shape
        ('custom+custom', (5, 3))
    """
    if not classifiers:
        raise ValueError("there are no classifiers to average; give one or more")
    first = classifiers[0]
    for other in classifiers[1:]:
        for field in ("channels", "class_names", "logits"):
            if getattr(other, field) != getattr(first, field):
                raise ValueError(
                    f"classifiers {first.name!r} and {other.name!r} differ in their {field}; "
                    "expected classifiers of the same images and classes"
                )
    return dataclasses.replace(
        first,
        params=tuple(classifier.params for classifier in classifiers),
        apply=_Average(tuple(classifier.apply for classifier in classifiers), first.logits),
        name="+".join(classifier.name for classifier in classifiers),
    )


@dataclasses.dataclass(frozen=True)
class _Average:
    """Equal for equal functions, so that programs compiled for one serve the other."""

    applies: tuple[Callable[[Any, jax.Array], jax.Array], ...]
    meaning: str

    def __call__(self, params: Sequence[Any], images: jax.Array) -> jax.Array:
        logits = [apply(p, images) for apply, p in zip(self.applies, params, strict=True)]
        if len({rows.shape for rows in logits}) > 1:
            shapes = " and ".join(str(rows.shape) for rows in logits)
            raise ValueError(f"the averaged classifiers have other classes: logits {shapes}")
        if self.meaning == "softmax":
            logits = [jax.nn.log_softmax(rows) for rows in logits]
        return jnp.mean(jnp.stack(logits), axis=0)

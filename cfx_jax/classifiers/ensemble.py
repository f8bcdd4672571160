"""Averages several classifiers into one, to explain the evidence that they have in common."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cfx_jax.classifiers.base import Classifier


def average(classifiers: Sequence[Classifier]) -> Classifier:
    """Combines classifiers into one whose logits are the mean of their log-probabilities.

    Formula: `logits(k | x) = mean_m log p_m(k | x)`, or for sigmoid logits, which are log-odds, the
    mean of the logits. A mask learnt with the average must convince all classifiers; evidence that
    affects only one classifier counts little.

    Args:
        classifiers: at least one classifier, all with the same channels, class names and kind of
            logits. All classifiers get images of the size of the first classifier. Different
            numbers of classes raise an error when the average is called.

    Returns:
        A `Classifier` whose parameters are the tuple of all parameters. Its name joins all names;
        the other fields are taken from the first classifier.

    Raises:
        ValueError: no classifier is given, or they differ in one of these fields.

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
        raise ValueError("there are no classifiers to average; pass one or more")
    first = classifiers[0]
    for other in classifiers[1:]:
        for field in ("channels", "class_names", "logits"):
            if getattr(other, field) != getattr(first, field):
                raise ValueError(
                    f"classifiers {first.name!r} and {other.name!r} differ in their {field}; "
                    "expected classifiers for the same images and classes"
                )
    return dataclasses.replace(
        first,
        params=tuple(classifier.params for classifier in classifiers),
        apply=_Average(tuple(classifier.apply for classifier in classifiers), first.logits),
        name="+".join(classifier.name for classifier in classifiers),
    )


@dataclasses.dataclass(frozen=True)
class _Average:
    """Averaged `apply` functions; equal for equal functions, so that programs are reused."""

    applies: tuple[Callable[[Any, jax.Array], jax.Array], ...]
    kind: str

    def __call__(self, params: Sequence[Any], images: jax.Array) -> jax.Array:
        logits = [apply(p, images) for apply, p in zip(self.applies, params, strict=True)]
        if len({rows.shape for rows in logits}) > 1:
            shapes = " and ".join(str(rows.shape) for rows in logits)
            raise ValueError(f"the averaged classifiers have different classes: logits {shapes}")
        if self.kind == "softmax":
            logits = [jax.nn.log_softmax(rows) for rows in logits]
        return jnp.mean(jnp.stack(logits), axis=0)

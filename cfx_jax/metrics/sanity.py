"""Sanity checks: does a map depend on the weights of the classifier, and on the class asked for?

A method whose maps stay the same when the weights are shuffled explains the picture, not the
classifier. Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018.

`explain` is any method: `(classifier, images [N, H, W, C], targets [N]) -> maps [N, H, W]`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.classifiers import Classifier
from cfx_jax.metrics.masks import rank_agreement

Explain = Callable[[Classifier, jax.Array, jax.Array], jax.Array]


class Cascade(NamedTuple):
    """How alike maps stay as more and more layers lose their weights.

    Attributes:
        num_layers: shuffled at each stage, counted from the output; the last stage has them all.
        agreement: float `[stages, N]`, rank agreement with the maps of the intact classifier.
    """

    num_layers: tuple[int, ...]
    agreement: np.ndarray


def cascade_agreement(
    key: jax.Array,
    explain: Explain,
    classifier: Classifier,
    images: jax.Array,
    targets: jax.Array,
    num_stages: int = 4,
    layers: Sequence[str] | None = None,
) -> Cascade:
    """Cascading randomisation: shuffles the weights from the output down and compares the maps.

    The nearer to 0 the agreement falls, the more the method depends on what the classifier learnt;
    a method that never looks at it stays at 1. Differs from the paper in that the weights of a
    layer are shuffled among themselves instead of drawn anew, which keeps their scale whatever
    initialised them, and in that layers are shuffled in a few stages, not one by one.

    Args:
        key: random key of the shuffles.
        explain: the method, see the head of this module.
        classifier: the intact one.
        images: float32 `[N, H, W, C]` in [0, 1].
        targets: int `[N]`.
        num_stages: S; stage s shuffles the last `s / S` of the layers.
        layers: paths of the layers in the parameters, parts joined by `/`, from input to output;
            None finds those of a module of Flax Linen.

    Returns:
        A `Cascade`.

    Raises:
        ValueError: the layers cannot be found, or there is none of a given name.

    Example:
        >>> import jax, jax.numpy as jnp, cfx_jax
        >>> def apply(params, images):
        ...     return jnp.tanh(images.reshape(len(images), -1) @ params["first"]) @ params["head"]
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> params = {"first": jax.random.normal(keys[0], (48, 9)),
        ...           "head": jax.random.normal(keys[1], (9, 3))}
        >>> def gradient(classifier, images, targets):
        ...     logit = lambda x, t: classifier.apply(classifier.params, x[None])[0, t]
        ...     return jnp.abs(jax.vmap(jax.grad(logit))(images, targets)).max(-1)
        >>> images = jax.random.uniform(keys[2], (2, 4, 4, 3))
        >>> cascade = cascade_agreement(
        ...     jax.random.key(1), gradient, cfx_jax.Classifier(params, apply), images,
        ...     jnp.asarray([0, 1]), num_stages=2, layers=("first", "head"))
        >>> cascade.num_layers, cascade.agreement.shape
        ((1, 2), (2, 2))
    """
    names = find_layers(classifier, images) if layers is None else tuple(layers)
    intact = np.asarray(explain(classifier, images, targets))
    stages = np.linspace(0, len(names), num_stages + 1).round().astype(int)[1:]
    agreement = []
    for count in stages:
        shuffled = shuffle_layers(key, classifier, names[len(names) - count :])
        agreement.append(rank_agreement(intact, np.asarray(explain(shuffled, images, targets))))
    return Cascade(tuple(int(count) for count in stages), np.stack(agreement))


def label_agreement(
    explain: Explain,
    classifier: Classifier,
    images: jax.Array,
    targets: jax.Array,
    others: jax.Array,
) -> np.ndarray:
    """Asks for other classes and compares the maps: 1 = the method does not care which is asked.

    Differs from the data randomisation of the paper, which trains the classifier again on shuffled
    labels: here the labels are shuffled at the time of the question.

    Args:
        explain: the method, see the head of this module.
        classifier: the model explained.
        images: float32 `[N, H, W, C]` in [0, 1].
        targets: int `[N]`.
        others: int `[N]`, another class for each image.

    Returns:
        float `[N]`, rank agreement of the two maps of an image; lower is better.

    Raises:
        ValueError: a class is the same in both.
    """
    if np.any(np.asarray(targets) == np.asarray(others)):
        raise ValueError("others hold a class that is the target itself; expected another one")
    maps = [np.asarray(explain(classifier, images, asked)) for asked in (targets, others)]
    return rank_agreement(*maps)


def find_layers(classifier: Classifier, images: jax.Array) -> tuple[str, ...]:
    """Finds the layers with parameters of a module of Flax Linen; runs nothing.

    Args:
        classifier: built on `module.apply`.
        images: float32 `[N, H, W, C]`, for their shape.

    Returns:
        Paths in the parameters, parts joined by `/`, in the order in which they are called.

    Raises:
        ValueError: the classifier is not made of such layers.
    """
    with_arrays = {_layer_of(name) for name, _ in _named_leaves(classifier.params)}
    called: dict[str, None] = {}

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        # When it returns, so that what it calls comes before it.
        result = call(*args, **kwargs)
        path = "/".join(context.module.path)
        if context.method_name == "__call__" and path in with_arrays:
            called[path] = None
        return result

    with nn.intercept_methods(note):
        jax.eval_shape(classifier.apply, classifier.params, images[:1])
    if not called:
        raise ValueError(
            f"classifier {classifier.name!r} has no layers of Flax Linen; name them with layers"
        )
    return tuple(called)


def shuffle_layers(key: jax.Array, classifier: Classifier, layers: Sequence[str]) -> Classifier:
    """Shuffles the values of each array of some layers among themselves.

    Args:
        key: random key; each array folds its place in the parameters in.
        classifier: the intact one.
        layers: paths in the parameters, see `find_layers`, or of single arrays.

    Returns:
        The classifier with other parameters of the same shapes.

    Raises:
        ValueError: there is no layer of a given name.
    """
    leaves = _named_leaves(classifier.params)
    known = {part for name, _ in leaves for part in (name, _layer_of(name))}
    if unknown := sorted(set(layers) - known):
        raise ValueError(f"no layers {', '.join(unknown)}; expected some of {sorted(known)}")
    shuffled = [
        jax.random.permutation(jax.random.fold_in(key, place), jnp.ravel(leaf)).reshape(leaf.shape)
        if name in layers or _layer_of(name) in layers
        else leaf
        for place, (name, leaf) in enumerate(leaves)
    ]
    treedef = jax.tree.structure(classifier.params)
    return dataclasses.replace(classifier, params=jax.tree.unflatten(treedef, shuffled))


def _named_leaves(params: Any) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree.leaves_with_path(params)
    ]


def _layer_of(name: str) -> str:
    """The layer an array belongs to: its path without the last part."""
    return name.rpartition("/")[0]

"""Sanity checks: does a map depend on the weights of the classifier, and on the class asked for?

A method whose maps stay the same when the weights are shuffled explains the picture, not the
classifier. Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018. A check is the
`rank_agreement` of two maps of an image: 1 = the method does not look, near 0 = it does.

Differs from the paper in that all weights are shuffled at once, the end of its cascade; that those
of an array are shuffled among themselves instead of drawn anew, which keeps their scale whatever
initialised them; and that another class is asked for, instead of training on shuffled labels.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cfx_jax.classifiers import Classifier


def shuffle_weights(key: jax.Array, classifier: Classifier) -> Classifier:
    """Shuffles the values of each array of a classifier among themselves.

    Args:
        key: random key; each array folds its place among the parameters in.
        classifier: the intact one.

    Returns:
        The classifier with other parameters of the same shapes.
    """
    leaves, treedef = jax.tree.flatten(classifier.params)
    shuffled = [
        jax.random.permutation(jax.random.fold_in(key, place), jnp.ravel(leaf)).reshape(leaf.shape)
        for place, leaf in enumerate(leaves)
    ]
    return dataclasses.replace(classifier, params=jax.tree.unflatten(treedef, shuffled))


def draw_other_class(key: jax.Array, target: jax.Array, num_classes: int) -> jax.Array:
    """Draws a class that is not the target, all others as likely.

    Args:
        key: random key of this image.
        target: int32 scalar.
        num_classes: K >= 2.

    Returns:
        int32 scalar in [0, K).
    """
    return (target + jax.random.randint(key, (), 1, num_classes)) % num_classes

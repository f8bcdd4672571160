"""Sanity checks: whether a map depends on the weights of the classifier and on the target.

A method whose maps stay the same when the weights are shuffled explains the image, not the
classifier. Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018. A check is the
`rank_agreement` of two maps of an image: 1 = the map does not depend on the change, near 0 = it
does.

Differs from the paper in three points. All weights are shuffled together, which is the last stage
of its cascade. The values of each array are permuted instead of drawn again, which keeps their
scale for any initialisation. Another target is explained, instead of training on shuffled labels.
"""

import dataclasses

import jax
import jax.numpy as jnp

from cfx_jax.classifiers import Classifier


def shuffle_weights(key: jax.Array, classifier: Classifier) -> Classifier:
    """Permutes the values within each parameter array of a classifier.

    Args:
        key: random key; the index of each array is folded in.
        classifier: the original classifier.

    Returns:
        The classifier with permuted parameters.
    """
    leaves, treedef = jax.tree.flatten(classifier.params)
    shuffled = [
        jax.random.permutation(jax.random.fold_in(key, index), jnp.ravel(leaf)).reshape(leaf.shape)
        for index, leaf in enumerate(leaves)
    ]
    return dataclasses.replace(classifier, params=jax.tree.unflatten(treedef, shuffled))


def draw_other_class(key: jax.Array, target: jax.Array, num_classes: int) -> jax.Array:
    """Draws one of the classes other than the target, all with equal probability.

    Args:
        key: random key for this image.
        target: class to exclude, int32 scalar.
        num_classes: number of classes K >= 2.

    Returns:
        Class, int32 scalar in [0, K).
    """
    return (target + jax.random.randint(key, (), 1, num_classes)) % num_classes

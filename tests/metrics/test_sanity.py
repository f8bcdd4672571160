"""Sanity checks of methods that use the classifier and of methods that do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax.baselines import attribute
from cfx_jax.metrics import sanity
from cfx_jax.metrics.masks import rank_agreement

KEY = jax.random.key(0)
TARGETS = jnp.asarray([0, 1, 2, 3, 4])


def agreement(method, images, ours, theirs):
    """Mean rank agreement of the maps of two questions, each a classifier and targets."""
    grey = cfx_jax.load_generator("grey")
    maps = [attribute(method, KEY, model, grey, images, t) for model, t in (ours, theirs)]
    return rank_agreement(*map(np.asarray, maps)).mean()


@pytest.mark.parametrize(("method", "is_blind"), [("gradient_x_input", False), ("random", True)])
def test_shuffle_weights_changes_the_maps_of_all_but_blind_methods(
    method, is_blind, random_classifier, images
):
    intact = (random_classifier, TARGETS)
    shuffled = (sanity.shuffle_weights(KEY, random_classifier), TARGETS)
    keys = jax.random.split(KEY, 5)
    others = jax.vmap(sanity.draw_other_class, in_axes=(0, 0, None))(keys, TARGETS, 5)
    for question in (shuffled, (random_classifier, others)):
        found = agreement(method, images, intact, question)
        assert found == pytest.approx(1.0) if is_blind else found < 0.5


def test_shuffle_weights_keeps_the_values_of_each_array(random_classifier):
    shuffled = sanity.shuffle_weights(KEY, random_classifier)
    for name, ours in random_classifier.params.items():
        theirs = shuffled.params[name]
        assert ours.shape == theirs.shape
        assert (np.asarray(ours) == np.asarray(theirs)).mean() < 0.1
        np.testing.assert_array_equal(np.sort(ours, axis=None), np.sort(theirs, axis=None))


def test_draw_other_class_draws_every_class_but_the_target():
    keys = jax.random.split(KEY, 200)
    drawn = jax.vmap(lambda key: sanity.draw_other_class(key, jnp.asarray(3), 5))(keys)
    assert set(np.asarray(drawn).tolist()) == {0, 1, 2, 4}

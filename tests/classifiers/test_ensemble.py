"""The average of several classifiers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

import cfx_jax
from cfx_jax.classifiers import Classifier, average


def test_average_logits_are_the_mean_of_log_probabilities(linear_classifier, images):
    rng = np.random.default_rng(0)
    members = [linear_classifier(rng.normal(size=(16, 16, 3)) / 50) for _ in range(3)]
    both = average(members)
    logits = [np.asarray(m.apply(m.params, images), float) for m in members]
    expected = np.mean([log_softmax(rows, axis=1) for rows in logits], axis=0)
    np.testing.assert_allclose(both.apply(both.params, images), expected, rtol=1e-4, atol=1e-5)
    assert both.name == "custom+custom+custom"


def test_average_of_one_decides_like_that_one(random_classifier, fill_half, images):
    one = average([random_classifier])
    arguments = {"mode": "paper", "mask_size": 4, "num_steps": 3}
    key = jax.random.key(0)
    alone = cfx_jax.explain(key, random_classifier, fill_half, images[:2], **arguments)
    averaged = cfx_jax.explain(key, one, fill_half, images[:2], **arguments)
    np.testing.assert_allclose(averaged.keep_prob, alone.keep_prob, atol=1e-3)


def test_average_of_equal_members_shares_programs(random_classifier):
    twice = [average([random_classifier, random_classifier]) for _ in range(2)]
    assert twice[0].apply == twice[1].apply
    assert hash(twice[0].apply) == hash(twice[1].apply)


def test_average_names_incompatible_members(linear_classifier, random_classifier, images):
    with pytest.raises(ValueError, match="no classifiers"):
        average([])
    grey = Classifier(params=(), apply=lambda _, x: x.mean((1, 2)), name="grey", channels=1)
    with pytest.raises(ValueError, match="'random' and 'grey' differ in their channels"):
        average([random_classifier, grey])
    mixed = average([linear_classifier(np.ones((16, 16, 3))), random_classifier])
    with pytest.raises(ValueError, match=r"different classes: logits \(5, 2\) and \(5, 5\)"):
        mixed.apply(mixed.params, jnp.asarray(images))

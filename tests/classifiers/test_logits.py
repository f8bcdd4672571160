"""What logits say of a class, of each kind of head and question, against plain probabilities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logit, softmax

from cfx_jax import Classifier
from cfx_jax.classifiers import predict

LOGITS = np.random.default_rng(0).normal(0.0, 3.0, (6, 4)).astype(np.float32)


def classifier(**fields):
    return Classifier(params=(), apply=lambda params, images: images, **fields)


@pytest.mark.parametrize("target", range(4))
def test_softmax_is_the_class_against_all_others(target):
    p = softmax(LOGITS.astype(float), axis=-1)[:, target]
    np.testing.assert_allclose(classifier().log_odds(LOGITS, target), logit(p), rtol=1e-4)
    decided = classifier().decides(LOGITS, target)
    np.testing.assert_array_equal(decided, LOGITS.argmax(-1) == target)
    np.testing.assert_array_equal(classifier().lead(LOGITS, target) > 0, decided)


@pytest.mark.parametrize("target", range(4))
def test_sigmoid_is_each_class_by_itself(target):
    p = expit(LOGITS.astype(float))[:, target]
    heads = classifier(logits="sigmoid")
    np.testing.assert_allclose(heads.log_odds(LOGITS, target), logit(p), rtol=1e-4)
    np.testing.assert_array_equal(heads.decides(LOGITS, target), p > 0.5)
    np.testing.assert_array_equal(heads.lead(LOGITS, target), heads.log_odds(LOGITS, target))


@pytest.mark.parametrize("target", [0, 1])
def test_one_logit_is_a_binary_classifier(target):
    """It says what a softmax over `[0, z]` says."""
    z = LOGITS[:, :1]
    both = np.concatenate([np.zeros_like(z), z], axis=1)
    binary, two = classifier(logits="sigmoid"), classifier()
    for name in ("log_odds", "lead", "decides"):
        found, expected = (getattr(c, name)(x, target) for c, x in ((binary, z), (two, both)))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(predict(z), predict(both))


@pytest.mark.parametrize("meaning", ["softmax", "sigmoid"])
def test_a_contrast_is_one_class_rather_than_another(meaning):
    asked = classifier(logits=meaning, contrast=jnp.int32(3))
    p = softmax(LOGITS.astype(float), axis=-1)
    if meaning == "softmax":
        np.testing.assert_allclose(asked.log_odds(LOGITS, 1), np.log(p[:, 1] / p[:, 3]), rtol=1e-4)
    np.testing.assert_array_equal(asked.log_odds(LOGITS, 1), LOGITS[:, 1] - LOGITS[:, 3])
    np.testing.assert_array_equal(asked.decides(LOGITS, 1), LOGITS[:, 1] > LOGITS[:, 3])
    assert not asked.decides(LOGITS, 3).any(), "no class rather than itself"


def brightest(logits, target):
    return logits[..., target] - 2.0


def test_a_score_is_any_question():
    asked = classifier(score=brightest)
    for name in ("log_odds", "lead", "logit"):
        np.testing.assert_array_equal(getattr(asked, name)(LOGITS, 2), LOGITS[:, 2] - 2.0)
    np.testing.assert_array_equal(asked.decides(LOGITS, 2), LOGITS[:, 2] > 2.0)


@pytest.mark.parametrize("meaning", ["softmax", "sigmoid"])
def test_targets_may_be_one_for_each_row(meaning):
    targets = np.arange(6)[:, None] % 4
    asked = classifier(logits=meaning)
    for name in ("log_odds", "lead", "logit"):
        found = getattr(asked, name)(LOGITS, targets)
        one = jax.vmap(functools.partial(getattr(asked, name)))
        np.testing.assert_allclose(found, one(jnp.asarray(LOGITS), targets[:, 0]), rtol=1e-5)


def test_a_meaning_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="is 'sigmoids'; expected one of 'softmax', 'sigmoid'"):
        classifier(logits="sigmoids")

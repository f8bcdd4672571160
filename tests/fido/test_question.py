"""The evidence for a class, for each kind of logits and question, against plain probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logit, softmax

from cfx_jax import Classifier
from cfx_jax.classifiers import predict
from cfx_jax.fido.question import Question

LOGITS = np.random.default_rng(0).normal(0.0, 3.0, (6, 4)).astype(np.float32)


def apply(params, images):
    return images


SOFTMAX = Classifier(params=(), apply=apply)
SIGMOID = Classifier(params=(), apply=apply, logits="sigmoid")
MODELS = {"softmax": SOFTMAX, "sigmoid": SIGMOID}


def call(name, question, logits, model):
    arguments = (logits,) if name == "logit" else (logits, model)
    return getattr(question, name)(*arguments)


@pytest.mark.parametrize("target", range(4))
def test_question_softmax_is_the_class_against_all_others(target):
    p = softmax(LOGITS.astype(float), axis=-1)[:, target]
    question_of_image = Question(target)
    np.testing.assert_allclose(question_of_image.log_odds(LOGITS, SOFTMAX), logit(p), rtol=1e-4)
    decided = question_of_image.decides(LOGITS, SOFTMAX)
    np.testing.assert_array_equal(decided, LOGITS.argmax(-1) == target)
    np.testing.assert_array_equal(question_of_image.logit_margin(LOGITS, SOFTMAX) > 0, decided)


@pytest.mark.parametrize("target", range(4))
def test_question_sigmoid_is_each_class_alone(target):
    p = expit(LOGITS.astype(float))[:, target]
    question_of_image = Question(target)
    evidence = question_of_image.log_odds(LOGITS, SIGMOID)
    np.testing.assert_allclose(evidence, logit(p), rtol=1e-4)
    np.testing.assert_array_equal(question_of_image.decides(LOGITS, SIGMOID), p > 0.5)
    np.testing.assert_array_equal(question_of_image.logit_margin(LOGITS, SIGMOID), evidence)


@pytest.mark.parametrize("target", [0, 1])
def test_question_one_logit_is_a_binary_classifier(target):
    """The answers equal those of a softmax over `[0, z]`."""
    z = LOGITS[:, :1]
    both = np.concatenate([np.zeros_like(z), z], axis=1)
    for name in ("log_odds", "logit_margin", "decides"):
        found, expected = (
            call(name, Question(target), logits, model)
            for logits, model in ((z, SIGMOID), (both, SOFTMAX))
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(predict(z), predict(both))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_question_contrast_compares_two_classes(model):
    question_of_image, p = Question(1, jnp.int32(3)), softmax(LOGITS.astype(float), axis=-1)
    evidence = question_of_image.log_odds(LOGITS, model)
    if model is SOFTMAX:
        np.testing.assert_allclose(evidence, np.log(p[:, 1] / p[:, 3]), rtol=1e-4)
    np.testing.assert_array_equal(evidence, LOGITS[:, 1] - LOGITS[:, 3])
    np.testing.assert_array_equal(
        question_of_image.decides(LOGITS, model), LOGITS[:, 1] > LOGITS[:, 3]
    )
    itself = question_of_image.replace(target=3)
    assert not itself.decides(LOGITS, model).any(), "no class rather than itself"


def brightest(logits, target):
    return logits[..., target] - 2.0


def test_question_accepts_a_score_function():
    question_of_image = Question(2, score=brightest)
    for name in ("log_odds", "logit_margin", "logit"):
        np.testing.assert_array_equal(
            call(name, question_of_image, LOGITS, SOFTMAX), LOGITS[:, 2] - 2.0
        )
    np.testing.assert_array_equal(question_of_image.decides(LOGITS, SOFTMAX), LOGITS[:, 2] > 2.0)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_question_accepts_one_target_per_row(model):
    targets = np.arange(6)[:, None] % 4
    for name in ("log_odds", "logit_margin", "logit"):
        found = call(name, Question(targets), LOGITS, model)
        one = jax.vmap(lambda target, z, name=name: call(name, Question(target), z, model))
        np.testing.assert_allclose(found, one(targets[:, 0], jnp.asarray(LOGITS)), rtol=1e-5)


def test_question_shares_one_program_across_classes_and_contrasts():
    traces = []

    @jax.jit
    def logit_margin(question, logits):
        traces.append(question)
        return question.logit_margin(logits, SOFTMAX)

    for target, contrast in ((0, 1), (1, 2), (2, 0)):
        question = Question(jnp.int32(target), jnp.int32(contrast))
        np.testing.assert_array_equal(
            logit_margin(question, LOGITS), LOGITS[:, target] - LOGITS[:, contrast]
        )
    assert len(traces) == 1

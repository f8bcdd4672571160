"""Runs with other questions than "why this class?", and their evaluation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax.config import (
    BatchConfig,
    Config,
    ConfigError,
    DataConfig,
    ExplainConfig,
    GeneratorConfig,
)
from cfx_jax.evaluate.config import EvaluateConfig
from cfx_jax.evaluate.evaluation import evaluate
from cfx_jax.fido.explanation import Status
from cfx_jax.records import ManifestMismatchError, RecordReader
from cfx_jax.runs import runner

SIZE, NUM_CLASSES = 8, 4
IMAGES = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


def apply(params, images):
    return (images - 0.5).reshape(len(images), -1) @ params


@pytest.fixture(scope="module")
def classifier():
    params = jax.random.normal(jax.random.key(0), (SIZE * SIZE * 3, NUM_CLASSES))
    return cfx_jax.Classifier(params=params, apply=apply, image_size=(SIZE, SIZE), name="linear")


@pytest.fixture
def config(tmp_path):
    np.savez(tmp_path / "data.npz", images=IMAGES, labels=[0, 1, 2], ids=["a", "b", "c"])
    return Config(
        data=DataConfig(source="npz", path=str(tmp_path / "data.npz"), resize="stretch"),
        explain=ExplainConfig(mode="fast", num_steps=10, num_samples=2, mask_size=SIZE),
        generator=GeneratorConfig(name="grey"),
        batch=BatchConfig(per_device_batch_size=2, unit_size=2),
    )


def asking(config, **question):
    return dataclasses.replace(config, explain=dataclasses.replace(config.explain, **question))


def scored_with_grey():
    return EvaluateConfig(
        generator=GeneratorConfig(name="grey"), baselines=("gradient",), curve_steps=2,
        sanity_images=0,
    )  # fmt: skip


def logits_of(classifier, row):
    image = jnp.asarray(IMAGES[row : row + 1], jnp.float32) / 255
    return np.asarray(classifier.apply(classifier.params, image))[0]


def test_run_applies_a_contrast_to_every_image(config, classifier, tmp_path):
    runner.run(asking(config, contrast=3), tmp_path / "run", classifier=classifier)
    reader = RecordReader(tmp_path / "run")
    found = reader.read("ssr_log_odds_original")
    expected = [logits_of(classifier, row)[[row, 3]] @ [1, -1] for row in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    missed = reader.read("sdr_status") == Status.MISCLASSIFIED
    np.testing.assert_array_equal(missed, np.less_equal(expected, 0))
    for other in (config, asking(config, contrast=2)):
        with pytest.raises(ManifestMismatchError, match="contrast"):
            runner.run(other, tmp_path / "run", classifier=classifier)


@pytest.mark.parametrize(("contrast", "num_warnings"), [(2, 1), (3, 0)])
def test_run_warns_once_of_labels_equal_to_the_contrast(
    contrast, num_warnings, config, classifier, tmp_path, caplog
):
    runner.run(asking(config, contrast=contrast), tmp_path / "run", classifier=classifier)
    message = "explain.contrast is the label of 1 examples, the first is 'c': a class cannot be "
    assert sum(message in record.getMessage() for record in caplog.records) == num_warnings
    status = RecordReader(tmp_path / "run").read("ssr_status")
    assert not num_warnings or status[2] == Status.MISCLASSIFIED


@pytest.mark.slow
def test_evaluate_uses_the_question_of_the_run(config, classifier, tmp_path):
    runner.run(asking(config, contrast=3), tmp_path / "run", classifier=classifier)
    runner.run(config, tmp_path / "plain", classifier=classifier)
    evaluation = scored_with_grey()
    records = [str(tmp_path / "run"), str(tmp_path / "plain")]
    evaluate(evaluation, tmp_path / "scores", records[:1], classifier=classifier)
    found = RecordReader(tmp_path / "scores/scores/images").read("log_odds")
    expected = [logits_of(classifier, row)[[row, 3]] @ [1, -1] for row in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="has the contrast None, not 3; expected the same ques"):
        evaluate(evaluation, tmp_path / "both", records, classifier=classifier)


@pytest.mark.slow
def test_run_records_each_likely_class_as_an_example(config, classifier, tmp_path):
    runner.run(asking(config, top_classes=3), tmp_path / "run", classifier=classifier)
    reader = RecordReader(tmp_path / "run")
    assert reader.ids() == [f"{name}#{rank}" for name in "abc" for rank in (1, 2, 3)]
    order = [np.argsort(-logits_of(classifier, row))[:3] for row in range(3)]
    np.testing.assert_array_equal(reader.read("target"), np.concatenate(order))
    np.testing.assert_array_equal(reader.read("label"), np.repeat([0, 1, 2], 3))
    is_second = np.arange(9) % 3 > 0
    missed = reader.read("ssr_status") == Status.MISCLASSIFIED
    np.testing.assert_array_equal(missed, is_second)
    np.testing.assert_array_equal(reader.read("image")[::3], reader.read("image")[2::3])
    evaluation = scored_with_grey()
    evaluate(evaluation, tmp_path / "scores", [str(tmp_path / "run")], classifier=classifier)
    targets = RecordReader(tmp_path / "scores/scores/images").read("target")
    np.testing.assert_array_equal(targets, reader.read("target"))
    maps = RecordReader(tmp_path / "scores/scores/gradient").read("map")
    assert np.abs(maps[0].astype(float) - maps[1]).max() > 0.1


@pytest.mark.slow
def test_run_targets_have_the_masks_of_single_targets(config, classifier, tmp_path):
    """The rank of an example decides only its target and, through its id, its noise."""
    long = asking(config, num_steps=200, num_samples=4)
    runner.run(asking(long, top_classes=2), tmp_path / "run", classifier=classifier)
    targets = RecordReader(tmp_path / "run").read("target")
    masks = RecordReader(tmp_path / "run").read("ssr_mask_logits").astype(float)
    images = jnp.asarray(np.repeat(IMAGES, 2, axis=0), jnp.float32) / 255
    alone = cfx_jax.explain(
        jax.random.key(5), classifier, cfx_jax.load_generator("grey"), images,
        jnp.asarray(targets), mode="fast", mask_size=SIZE, num_steps=200, num_samples=4,
    )  # fmt: skip
    own = np.abs(masks - np.asarray(alone.mask_logits)).mean((1, 2))
    other = np.abs(masks[::-1] - np.asarray(alone.mask_logits)).mean((1, 2))
    assert (own < 0.5 * other).all()


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"contrast": NUM_CLASSES}, f"contrast is class {NUM_CLASSES}; the classifier has classes"),
        ({"contrast": -1}, "explain.contrast is -1; expected a whole number of at least 0"),
        ({"top_classes": 0}, "explain.top_classes is 0; expected a whole number of at least 1"),
        ({"top_classes": 5}, "explain.top_classes is 5, but 'linear' has only 4 classes"),
    ],
)
def test_run_refuses_invalid_questions(question, message, config, classifier, tmp_path):
    with pytest.raises(ConfigError, match=message):
        runner.run(asking(config, **question), tmp_path / "run", classifier=classifier)

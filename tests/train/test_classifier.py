"""The training of a classifier of digits, on digits that are easy to distinguish."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors import safe_open

import cfx_jax
from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.records.manifest import read_manifest
from cfx_jax.records.storage import Storage
from cfx_jax.train.classifier import cross_entropy, train_classifier
from cfx_jax.train.config import TrainClassifierConfig


def bars(number, seed):
    """Digit k: a bright bar in row 2 k + 4 on noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, number)
    pixels = rng.integers(0, 60, (number, 28, 28), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[2 * label + 4] = 255
    return pixels, labels


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "bars.npz"
    train, test = bars(256, 0), bars(40, 1)
    np.savez(path, x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1])
    data = DataConfig(source="npz", path=str(path), split="train", resize="stretch")
    return TrainClassifierConfig(
        data=data, heldout=dataclasses.replace(data, split="test"), batch_size=32, num_steps=40
    )


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    return train_classifier(config, tmp_path_factory.mktemp("trained"))


def test_train_classifier_learns_and_its_weights_load(config, trained):
    path, accuracy = trained
    assert accuracy >= 0.9
    classifier = cfx_jax.load_classifier("mnist_cnn", path)
    pixels, labels = bars(40, 1)
    logits = classifier.apply(classifier.params, pixels[..., None].astype(np.float32) / 255)
    assert np.mean(np.argmax(logits, axis=-1) == labels) == pytest.approx(accuracy)
    manifest, _ = read_manifest(Storage(path.parent))
    with safe_open(path, "numpy") as file:
        assert json.loads(file.metadata()["card"]) == manifest
    assert manifest["config"]["num_steps"] == 40


def test_train_classifier_is_deterministic(config, trained, tmp_path):
    path, _ = train_classifier(config, tmp_path)
    assert path.read_bytes() == trained[0].read_bytes()


def test_train_classifier_refuses_the_folder_of_another_training(config, trained):
    other = dataclasses.replace(config, seed=1)
    with pytest.raises(Exception, match="seed"):
        train_classifier(other, trained[0].parent)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (11, "label 11, but the classifier has classes 0 to 9"),
        (-1, "data: labels of 'letters/train' expected in 0 to 9"),
    ],
)
def test_train_classifier_names_labels_beyond_the_classes(label, message, config, tmp_path):
    path = tmp_path / "letters.npz"
    np.savez(path, x_train=np.zeros((3, 28, 28), np.uint8), y_train=np.array([0, 3, label]))
    letters = dataclasses.replace(config.data, path=str(path))
    with pytest.raises(ConfigError, match=message):
        train_classifier(dataclasses.replace(config, data=letters), tmp_path / "run")


def test_train_classifier_uses_synset_folders_as_classes(config, tmp_path):
    """Ten ImageNet folders are the ten classes of the network, in order."""
    from PIL import Image

    pixels, labels = bars(30, 2)
    labels[:10] = np.arange(10)
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = tmp_path / "images" / f"n0{label}440764"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    data = DataConfig(
        source="folder", path=str(tmp_path / "images"), resize="stretch", class_folders=True
    )
    short = dataclasses.replace(config, data=data, num_steps=1, batch_size=30)
    path, _ = train_classifier(short, tmp_path / "trained")
    assert path.is_file()


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "resnet50"), ("batch_size", 0), ("num_steps", 1.5), ("learning_rate", 0.0)],
)
def test_train_classifier_config_refuses_invalid_values(field, value):
    with pytest.raises(ConfigError, match=f"{field} is {value!r}; expected"):
        dataclasses.replace(TrainClassifierConfig(), **{field: value}).validate()


def test_cross_entropy_of_known_probabilities():
    logits = np.log(np.array([[0.25, 0.75], [0.5, 0.5]], np.float32))
    expected = -np.log([0.75, 0.5]).mean()
    assert cross_entropy(logits, np.array([1, 0])) == pytest.approx(expected, rel=1e-5)

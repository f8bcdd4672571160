"""Transfer classifiers: loading, names in tables, and errors."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import cfx_jax
from cfx_jax.config import ConfigError
from cfx_jax.evaluate._transfer_models import load_evaluation_models
from cfx_jax.evaluate.config import EvaluateConfig, TransferConfig
from cfx_jax.registry import weights_digest

DIGIT = (28, 28, 1)


def mean_apply(params, images):
    """Returns ten logits in proportion to the brightness."""
    return images.mean((1, 2, 3))[:, None] * params


@pytest.fixture
def digits():
    """A classifier of ten classes that takes grey images of any size."""
    params = np.arange(10, dtype=np.float32)
    return cfx_jax.Classifier(params=params, apply=mean_apply, name="digits", channels=1)


@pytest.fixture
def save_weights(tmp_path):
    """Writes weights of the MNIST network, all of one value; returns their path."""

    def save(value, num_classes=10):
        shapes = {"conv1": (32, 1, 3, 3), "conv2": (64, 32, 3, 3), "fc1": (128, 9216),
                  "fc2": (num_classes, 128)}  # fmt: skip
        arrays = {}
        for name, shape in shapes.items():
            arrays[f"{name}.weight"] = np.full(shape, value, np.float32)
            arrays[f"{name}.bias"] = np.zeros(shape[0], np.float32)
        path = tmp_path / f"{value}_{num_classes}.safetensors"
        save_file(arrays, path)
        return path

    return save


def load(digits, *texts, given=(), shape=DIGIT, precision="float32"):
    config = EvaluateConfig(transfer=TransferConfig(tuple(texts)), precision=precision)
    grey = cfx_jax.load_generator("grey")
    return load_evaluation_models(config, digits, grey, shape, given)


def test_transfer_models_are_named_by_name_or_weights(digits, save_weights):
    one, two = (f"mnist_cnn={save_weights(value)}" for value in (0.0, 0.5))
    assert list(load(digits, two).classifiers) == ["mnist_cnn"]
    both = load(digits, one, two).classifiers
    assert list(both) == [one, two]
    assert np.ptp(both[two].params["dense"]["kernel"]) == 0.0
    assert both[two].params["dense"]["kernel"][0, 0] == 0.5


def test_transfer_models_enter_the_identity(digits, save_weights):
    assert load(digits).identity()["transfer_classifiers"] == []
    models = load(digits, f"mnist_cnn={save_weights(0.5)}", given=[digits])
    digests = [weights_digest(other.params) for other in models.classifiers.values()]
    assert [
        (other["name"], other["weights_digest"])
        for other in models.identity()["transfer_classifiers"]
    ] == [("mnist_cnn", digests[0]), ("digits", digests[1])]
    assert digests[0] != digests[1]


def test_transfer_models_use_the_precision_of_the_evaluation(digits, save_weights):
    text = f"mnist_cnn={save_weights(0.5)}"
    models = load(digits, text, given=[digits], precision="bfloat16")
    kinds = [other.params for other in models.classifiers.values()]
    assert kinds[0]["dense"]["kernel"].dtype == kinds[1].dtype == "bfloat16"


def test_transfer_models_refuse_other_classes(digits, save_weights):
    text = f"mnist_cnn={save_weights(0.5, num_classes=7)}"
    with pytest.raises(ConfigError, match=r"mnist_cnn has 7 classes, digits has 10.*NAME=WEIGHTS"):
        load(digits, text)


@pytest.mark.parametrize("shape", [(32, 32, 1), (28, 28, 3)])
def test_transfer_models_refuse_images_of_another_shape(shape, digits, save_weights):
    text = f"mnist_cnn={save_weights(0.5)}"
    sizes = "{} x {} with {} channels".format(*shape)
    with pytest.raises(
        ConfigError, match=f"mnist_cnn cannot classify the images of digits, {sizes}"
    ):
        load(digits, text, shape=shape)


def test_transfer_models_name_missing_weights(digits):
    with pytest.raises(ConfigError, match=r"transfer\.classifiers: .*no/such"):
        load(digits, "mnist_cnn=no/such")


def test_transfer_models_refuse_two_of_one_name_from_python(digits):
    with pytest.raises(ConfigError, match="two classifiers are called 'digits'"):
        load(digits, given=[digits, digits])

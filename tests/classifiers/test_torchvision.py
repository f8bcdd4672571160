"""ResNet, VGG, AlexNet and the MNIST network against their PyTorch originals."""

import functools
import gzip
import json
import pathlib
import re
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import cfx_jax
from cfx_jax.classifiers import NORMALIZATIONS, NormalizedModule
from cfx_jax.classifiers._convolution import conv
from cfx_jax.classifiers.alexnet import AlexNet
from cfx_jax.classifiers.layers import adaptive_mean_pool, flatten, tiled_max_pool
from cfx_jax.classifiers.mnist_cnn import MnistCNN
from cfx_jax.classifiers.resnet import ResNet
from cfx_jax.classifiers.vgg import VGG
from cfx_jax.weights.architectures import ARCHITECTURES
from cfx_jax.weights.class_names import read_packaged
from cfx_jax.weights.fitting import build_network
from cfx_jax.weights.layout import published_shapes

GOLDEN = pathlib.Path(__file__).with_name("torchvision_golden.npz")
SHAPES = pathlib.Path(__file__).with_name("torchvision_shapes.json.gz")
CLASSES, HIDDEN, TARGET, STRIDE = 7, 24, 4, 3
STAGES = ((8,), (12, 16))
# Small network, like which architecture it is published, side and channels of its images.
SMALL = {
    "basic": (ResNet((1, 1, 1, 1), bottleneck=False), "resnet18", 56, 3),
    "bottleneck": (ResNet((1, 2, 1, 1), bottleneck=True), "resnet50", 56, 3),
    "vgg": (VGG(STAGES, HIDDEN), "vgg16", 40, 3),
    "vgg_bn": (VGG(STAGES, HIDDEN), "vgg16_bn", 40, 3),
    "alexnet": (AlexNet(HIDDEN), "alexnet", 96, 3),
    "mnist_cnn": (MnistCNN(), "mnist_cnn", 28, 1),
}
PUBLISHED = [name for name in ARCHITECTURES if re.match("resnet|vgg|alexnet", name)]


def draw_arrays(shapes):
    """Draws the arrays of a network by name and shape, so that no layer dies or saturates."""
    arrays = {}
    for name, shape in shapes.items():
        values = np.random.default_rng([0, zlib.crc32(name.encode())]).normal(size=shape)
        if len(shape) in (2, 4):
            values *= np.sqrt(2.0 / np.prod(shape[1:]))
        elif name.endswith("running_var"):
            values = np.exp(0.3 * values)
        else:
            values = 0.1 * values + (1.0 if name.endswith("weight") else 0.0)
        arrays[name] = values.astype(np.float32)
    return arrays


def draw_images(size, channels):
    return np.random.default_rng(1).normal(size=(2, size, size, channels)).astype(np.float32)


def small_arrays(name):
    """The name under which the architecture is known, and arrays for fewer classes."""
    module, like, size, channels = SMALL[name]
    module = module.clone(num_classes=CLASSES)
    images = jax.ShapeDtypeStruct((1, size, size, channels), np.float32)
    template = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    layout = ARCHITECTURES[like].layouts[0]
    return draw_arrays(published_shapes(layout.layers(module), template))


@pytest.mark.parametrize("name", SMALL)
def test_torchvision_networks_equal_the_originals(name, register, assert_as_original):
    arrays = small_arrays(name)
    module, params, normalization = build_network(register(name, *SMALL[name][:3]), arrays)
    assert normalization == NORMALIZATIONS["mnist" if name == "mnist_cnn" else "imagenet"]
    golden, images = np.load(GOLDEN), draw_images(*SMALL[name][2:])
    assert_as_original(golden, name, module, params, images, TARGET, STRIDE)


@functools.cache
def published():
    return json.loads(gzip.decompress(SHAPES.read_bytes()))


@pytest.mark.parametrize("name", PUBLISHED)
def test_torchvision_names_and_shapes_are_the_published_ones(name):
    architecture = ARCHITECTURES[name]
    layout = architecture.layouts[0]
    template = architecture.template(architecture.module)
    ours = published_shapes(layout.layers(architecture.module), template)
    assert {n: list(shape) for n, shape in ours.items()} == published()[name]


@pytest.mark.parametrize("name", [*PUBLISHED, "mnist_cnn"])
def test_torchvision_networks_have_images_and_classes_of_their_data(name):
    architecture = ARCHITECTURES[name]
    size, channels, classes = (28, 1, 10) if name == "mnist_cnn" else (224, 3, 1000)
    assert (architecture.image_size, architecture.channels) == (size, channels)
    assert architecture.module.num_classes == classes
    class_names = read_packaged(architecture.class_names)
    assert len(class_names) == classes
    assert name != "mnist_cnn" or class_names == tuple("0123456789")


def test_template_is_float32_under_x64():
    with jax.enable_x64(True):
        for name in ("resnet18", "efficientnet_lite0"):
            template = ARCHITECTURES[name].template(ARCHITECTURES[name].module)
            assert {leaf.dtype for leaf in jax.tree.leaves(template)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vgg16", 31, "the images are too small for this network"),
        ("alexnet", 62, "the images are too small for this network"),
        ("mnist_cnn", 32, "images are 32 x 32 pixels, but the MNIST network expects 28 x 28"),
    ],
)
def test_torchvision_networks_refuse_unsuitable_image_sizes(name, size, message):
    module, channels = ARCHITECTURES[name].module, ARCHITECTURES[name].channels
    images = jax.ShapeDtypeStruct((1, size, size, channels), np.float32)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), images)


def test_load_classifier_checks_the_number_of_classes(tmp_path):
    save_file(small_arrays("mnist_cnn"), tmp_path / "digits.safetensors")
    classifier = cfx_jax.load_classifier("mnist_cnn", tmp_path / "digits.safetensors")
    assert classifier.class_names == ()
    images = jnp.full((3, 28, 28, 1), 0.5)
    assert classifier.apply(classifier.params, images).shape == (3, CLASSES)
    names = list("abcdefg")
    named = cfx_jax.load_classifier(
        "mnist_cnn", tmp_path / "digits.safetensors", class_names=names, normalization="none"
    )
    assert named.class_names == tuple(names)
    assert named.apply is not classifier.apply
    with pytest.raises(ValueError, match=r"10 class names are given, but .* has 7 classes"):
        cfx_jax.load_classifier("mnist_cnn", tmp_path / "digits.safetensors", class_names="x" * 10)


def test_normalized_module_loaded_twice_is_traced_once():
    traces = []

    @functools.partial(jax.jit, static_argnames="apply")
    def run(apply, images):
        traces.append(apply)
        return apply.normalization(images)

    for name in ("mnist", "mnist", "none"):
        run(NormalizedModule(MnistCNN(), NORMALIZATIONS[name]), jnp.ones((1, 2, 2, 1)))
    assert len(traces) == 2


@pytest.mark.parametrize("stride", [1, 2])
def test_conv_strided_1x1_selects_pixels(stride):
    images = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(1, 1, 3, 4)).astype(np.float32)
    expected = np.einsum("nyxi,io->nyxo", images[:, ::stride, ::stride], kernel[0, 0])
    np.testing.assert_allclose(conv(images, kernel, stride), expected, atol=1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_tiled_max_pool_equals_max_pool_with_its_gradient(size):
    images = jax.random.normal(jax.random.key(0), (2, 7, 10, 3))

    def reference(images):
        return nn.max_pool(images, (size, size), (size, size))

    gradients = [
        jax.grad(lambda images, pool=pool: jnp.sum(jnp.sin(pool(images))))(images)
        for pool in (reference, lambda images: tiled_max_pool(images, size))
    ]
    np.testing.assert_array_equal(tiled_max_pool(images, size), reference(images))
    np.testing.assert_allclose(gradients[1], gradients[0], atol=1e-6)


@pytest.mark.parametrize("size", [(4, 4), (10, 5), (3, 7), (2, 2)])
def test_adaptive_mean_pool_windows_equal_pytorch(size):
    images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    pooled = adaptive_mean_pool(jnp.asarray(images), 4)
    for y, x in np.ndindex(4, 4):
        rows = slice(y * size[0] // 4, -(-(y + 1) * size[0] // 4))
        columns = slice(x * size[1] // 4, -(-(x + 1) * size[1] // 4))
        expected = images[:, rows, columns].mean((1, 2))
        np.testing.assert_allclose(pooled[:, y, x], expected, atol=1e-6)


def test_flatten_lists_channel_after_channel():
    images = jnp.arange(12.0).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(flatten(images)[0], [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11])

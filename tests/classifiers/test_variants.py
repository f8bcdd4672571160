"""ConvNeXt, and variants of ViT and ResNet, against timm, torchvision and transformers.

The names and shapes of the arrays are those of the originals: which variant it is, they tell.
"""

import functools
import gzip
import json
import os
import pathlib
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from cfx_jax.classifiers import NORMALIZATIONS
from cfx_jax.classifiers.convnext import ConvNeXt
from cfx_jax.classifiers.layers import gelu, halve
from cfx_jax.classifiers.resnet import ResNet
from cfx_jax.classifiers.vit import ViT, resize_positions
from cfx_jax.weights.architectures import ARCHITECTURES
from cfx_jax.weights.fitting import build_network
from cfx_jax.weights.preprocessing import Preprocessing

GOLDEN = pathlib.Path(__file__).with_name("variants_golden.npz")
SHAPES = pathlib.Path(__file__).with_name("variants_shapes.json.gz")
CLASSES, TARGET, STRIDE = 7, 4, 3
CONVNEXT = ConvNeXt((1, 2, 1, 1), (8, 12, 16, 24))
# The hidden layer is not four times as wide, and no two of dimension, heads and tokens agree.
VIT = ViT(8, 48, 2, 3, 96, image_size=32)
BASIC, BOTTLENECK = ResNet((1, 1, 1, 1), bottleneck=False), ResNet((1, 2, 1, 1), bottleneck=True)
# Name -> usual module, published architecture, image size, fields of the module that differ, and
# the pooling in timm's metadata where the arrays do not show it.
SMALL = {
    "convnext_torchvision": (CONVNEXT, "convnext_tiny", 64, {}, None),
    "convnext_timm": (CONVNEXT, "convnext_tiny", 64, {}, None),
    "convnext_transformers": (CONVNEXT, "convnext_tiny", 64, {}, None),
    "vit_registers": (
        VIT,
        "vit_b14",
        32,
        {"layer_scale": True, "registers": 3, "token_positions": False},
        None,
    ),
    "vit_registers_with_positions": (VIT, "vit_b14", 32, {"registers": 2}, None),
    "vit_mean": (VIT, "vit_b16", 32, {"mean_pool": True, "norm_pooled": True}, None),
    "vit_mean_of_normed": (VIT, "vit_b16", 32, {"mean_pool": True}, "avg"),
    "vit_without_class_token": (
        VIT,
        "vit_b16",
        32,
        {"mean_pool": True, "class_token": False},
        "avg",
    ),
    "vit_distilled": (VIT, "vit_t16", 32, {"distilled": True}, None),
    "vit_transformers": (VIT, "vit_b16", 32, {"epsilon": 1e-12}, None),
    "deit_transformers": (VIT, "vit_t16", 32, {"epsilon": 1e-12, "distilled": True}, None),
    "resnet_d_basic": (
        BASIC,
        "resnet18",
        56,
        {"stem_features": (32, 32, 64), "pooled_downsample": True},
        None,
    ),
    "resnet_d_bottleneck": (
        BOTTLENECK,
        "resnet50",
        56,
        {"stem_features": (16, 16, 32), "pooled_downsample": True},
        None,
    ),
}


def draw_arrays(shapes):
    """Draws the arrays of a network by name and shape, so that no layer dies or saturates."""
    arrays = {}
    for name, shape in shapes.items():
        values = np.random.default_rng([0, zlib.crc32(name.encode())]).normal(size=shape)
        if len(shape) in (2, 4):
            values /= np.sqrt(np.prod(shape[1:]))
        elif name.endswith("running_var"):
            values = np.exp(0.3 * values)
        elif name.endswith("weight"):
            values = 1.0 + 0.3 * values
        arrays[name] = values.astype(np.float32)
    return arrays


def draw_images(size):
    return np.random.default_rng(1).normal(size=(2, size, size, 3)).astype(np.float32)


@functools.cache
def published():
    """Name -> name of array -> shape, of the originals."""
    return json.loads(gzip.decompress(SHAPES.read_bytes()))


def facts_of(name):
    pool = SMALL[name][-1]
    return Preprocessing(arguments={"global_pool": pool} if pool else {})


@pytest.mark.parametrize("name", SMALL)
def test_variants_equal_the_originals(name, register, assert_as_original):
    usual, _, size, fields, _ = SMALL[name]
    arrays = draw_arrays(published()[name])
    module, params, _ = build_network(
        register(name, *SMALL[name][:3]), arrays, preprocessing=facts_of(name)
    )
    assert module == usual.clone(num_classes=CLASSES, **fields)
    golden, images = np.load(GOLDEN), draw_images(size)
    assert_as_original(golden, name, module, params, images, TARGET, STRIDE)


@pytest.mark.parametrize("grid", [(5, 9), (4, 4), (2, 3), (1, 7)])
def test_resize_positions_equals_the_jax_original(grid):
    positions = np.random.default_rng(0).normal(size=(1, 2 + 16, 3)).astype(np.float32)
    zoom = (grid[0] / 4, grid[1] / 4, 1)
    expected = scipy.ndimage.zoom(positions[0, 2:].reshape(4, 4, 3), zoom, order=1)
    resized = resize_positions(jnp.asarray(positions), 2, grid)
    np.testing.assert_array_equal(resized[:, :2], positions[:, :2])
    np.testing.assert_allclose(resized[0, 2:].reshape(expected.shape), expected, atol=1e-6)


def test_vit_for_another_size_resizes_its_positions():
    small = VIT.clone(depth=1)
    images = jax.random.normal(jax.random.key(1), (2, 40, 40, 3))
    params = jax.jit(small.init)(jax.random.key(0), images[:, :32, :32])["params"]
    positions = resize_positions(params["position_embedding"], 1, (5, 5))
    of_that_size = small.clone(image_size=40)
    expected = jax.jit(of_that_size.apply)(
        {"params": params | {"position_embedding": positions}}, images
    )
    np.testing.assert_allclose(
        jax.jit(small.apply)({"params": params}, images), expected, atol=1e-6
    )
    other = jax.jit(small.apply)({"params": params}, images[:, :, :32])
    assert np.abs(other - expected).max() > 1e-3


@pytest.mark.parametrize("tanh", [False, True])
def test_gelu_gradient_equals_its_formula(tanh):
    places = jnp.linspace(-6.0, 6.0, 101)

    def reference(x):
        return jax.nn.gelu(x, approximate=tanh)

    # With the compiler options of users, which other tests turn off.
    options = {"xla_backend_optimization_level": 3}
    if "--xla_cpu_use_fusion_emitters=false" in os.environ["XLA_FLAGS"]:
        options["xla_cpu_use_fusion_emitters"] = True
    compiled = functools.partial(jax.jit, compiler_options=options)
    np.testing.assert_allclose(gelu(places, tanh), reference(places), atol=1e-6)
    slopes = compiled(jax.vmap(jax.grad(lambda x: gelu(x, tanh))))(places)
    expected = compiled(jax.vmap(jax.grad(reference)))(places)
    np.testing.assert_allclose(slopes, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 2)])
def test_halve_averages_the_pixels_present(size):
    images = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    half = halve(jnp.asarray(images))
    assert half.shape[1:3] == (-(-size[0] // 2), -(-size[1] // 2))
    for y, x in np.ndindex(half.shape[1:3]):
        expected = images[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((1, 2))
        np.testing.assert_allclose(half[:, y, x], expected, atol=1e-6)


# Renames what the others publish as the original ConvNeXt does.
TO_ORIGINAL = {
    r"^stem\.": "downsample_layers.0.",
    r"^stages\.(\d)\.downsample\.": r"downsample_layers.\1.",
    r"^stages\.(\d)\.blocks\.": r"stages.\1.",
    "conv_dw": "dwconv",
    r"mlp\.fc": "pwconv",
    r"head\.norm": "norm",
    r"head\.fc": "head",
}


def test_convnext_original_equals_timm_under_other_names(register):
    arrays = draw_arrays(published()["convnext_timm"])
    expected = build_network(register("convnext_timm", *SMALL["convnext_timm"][:3]), arrays)
    renamed = {
        functools.reduce(lambda n, rule: re.sub(*rule, n), TO_ORIGINAL.items(), name): array
        for name, array in arrays.items()
    }
    found = build_network("small_convnext_timm", {f"model.{n}": a for n, a in renamed.items()})
    assert (found.module, found.normalization) == (expected.module, NORMALIZATIONS["imagenet"])
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


@pytest.mark.parametrize("name", SMALL)
def test_variants_read_their_own_parameters(name, register):
    module, params, _ = build_network(
        register(name, *SMALL[name][:3]),
        draw_arrays(published()[name]),
        preprocessing=facts_of(name),
    )
    for join in "./":
        leaves = jax.tree.leaves_with_path(params)
        own = {join.join(key.key for key in path): leaf for path, leaf in leaves}
        again = build_network(f"small_{name}", own, preprocessing=facts_of(name))
        # They do not tell the epsilon of their norms.
        usual = module.clone(epsilon=1e-6) if isinstance(module, ViT) else module
        assert again.module == usual
        jax.tree.map(np.testing.assert_array_equal, again.params, params)


# Depth of the third stage, width of the first, and the millions of parameters in the paper.
SIZES = {"tiny": (9, 96, 28.6), "small": (27, 96, 50.2), "base": (27, 128, 88.6)}


@pytest.mark.parametrize("size", SIZES)
def test_convnext_has_the_published_depths_and_widths(size):
    depth, width, millions = SIZES[size]
    architecture = ARCHITECTURES[f"convnext_{size}"]
    params = architecture.template(architecture.module)
    assert len([name for name in params if "block" in name]) == 9 + depth
    assert params["classifier"]["kernel"].shape == (8 * width, 1000)
    number = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert number / 1e6 == pytest.approx(millions, abs=0.05)

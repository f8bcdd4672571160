"""Vision Transformers against torchvision, timm and a forward pass written out in NumPy."""

import functools
import gzip
import json
import pathlib
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax.classifiers import NORMALIZATIONS
from cfx_jax.classifiers.vit import ViT, resize_positions
from cfx_jax.weights import _vit
from cfx_jax.weights.architectures import ARCHITECTURES
from cfx_jax.weights.files import read_weights
from cfx_jax.weights.fitting import build_network
from cfx_jax.weights.layout import published_shapes
from cfx_jax.weights.preprocessing import Preprocessing

GOLDEN = pathlib.Path(__file__).with_name("vit_golden.npz")
SHAPES = pathlib.Path(__file__).with_name("vit_shapes.json.gz")
# The hidden layer is not four times as wide, and no two of dimension, heads and tokens agree.
PATCH, DIM, DEPTH, HEADS, MLP_DIM, CLASSES, SIZE = 8, 48, 2, 3, 96, 7, 32
TARGET, STRIDE = 4, 3
SMALL = ViT(PATCH, DIM, DEPTH, HEADS, MLP_DIM, image_size=SIZE)
NAMES = [f"vit_{size}{patch}" for size in "sbl" for patch in (16, 32)]


def draw_arrays(shapes):
    """Draws the arrays of a network by name and shape, so that no layer dies or saturates."""
    arrays = {}
    for name, shape in shapes.items():
        values = np.random.default_rng([0, zlib.crc32(name.encode())]).normal(size=shape)
        if len(shape) in (2, 4):
            values /= np.sqrt(np.prod(shape[1:]))
        elif name.endswith("weight"):
            values = 1.0 + 0.3 * values
        arrays[name] = values.astype(np.float32)
    return arrays


def draw_images():
    return np.random.default_rng(1).normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)


def relative_error(value, expected):
    return np.linalg.norm(value - expected) / np.linalg.norm(expected)


@pytest.fixture
def small(register):
    return register("vit", SMALL, "vit_b16", SIZE)


@functools.cache
def template(name):
    return ARCHITECTURES[name].template(ARCHITECTURES[name].module)


def small_arrays(layers):
    """Arrays of the small network in a published layout, for fewer classes than the default."""
    module = SMALL.clone(num_classes=CLASSES)
    params = jax.eval_shape(module.init, jax.random.key(0), draw_images())["params"]
    return draw_arrays(published_shapes(layers(module), params))


@pytest.mark.parametrize(
    ("library", "layers", "normalization"),
    [("torchvision", _vit.torchvision, "imagenet"), ("timm", _vit.timm, "symmetric")],
)
def test_vit_equals_the_originals(small, library, layers, normalization, assert_as_original):
    module, params, published = build_network(small, small_arrays(layers))
    assert published == NORMALIZATIONS[normalization]
    assert not module.tanh_gelu
    golden, images = np.load(GOLDEN), draw_images()
    assert_as_original(golden, library, module, params, images, TARGET, STRIDE, of_gradient=1e-5)


def test_vit_accepts_the_perceptron_names_of_torchvision_files(small):
    arrays = small_arrays(_vit.torchvision)
    legacy = {
        name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): array
        for name, array in arrays.items()
    }
    assert legacy.keys() != arrays.keys()
    module, params, published = build_network(small, legacy)
    expected_module, expected_params, _ = build_network(small, arrays)
    assert module == expected_module
    assert published == NORMALIZATIONS["imagenet"]
    jax.tree.map(np.testing.assert_array_equal, params, expected_params)


def as_npz(arrays):
    """Re-packs the arrays of timm as the JAX original names and shapes them."""
    packed = {
        "cls": arrays["cls_token"],
        "Transformer/posembed_input/pos_embedding": arrays["pos_embed"],
        "embedding/kernel": np.einsum("dcyx->yxcd", arrays["patch_embed.proj.weight"]),
        "embedding/bias": arrays["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": arrays["norm.weight"],
        "Transformer/encoder_norm/bias": arrays["norm.bias"],
        "head/kernel": arrays["head.weight"].T,
        "head/bias": arrays["head.bias"],
    }
    for block in range(DEPTH):
        theirs, ours = f"blocks.{block}.", f"Transformer/encoderblock_{block}/"
        for i, norm in enumerate(("LayerNorm_0", "LayerNorm_2"), start=1):
            packed[f"{ours}{norm}/scale"] = arrays[f"{theirs}norm{i}.weight"]
            packed[f"{ours}{norm}/bias"] = arrays[f"{theirs}norm{i}.bias"]
        for i in range(2):
            dense = f"{ours}MlpBlock_3/Dense_{i}"
            packed[f"{dense}/kernel"] = arrays[f"{theirs}mlp.fc{i + 1}.weight"].T
            packed[f"{dense}/bias"] = arrays[f"{theirs}mlp.fc{i + 1}.bias"]
        width = DIM // HEADS
        attention = f"{ours}MultiHeadDotProductAttention_1"
        for part, name in enumerate(("query", "key", "value")):
            kernel = np.zeros((DIM, HEADS, width), np.float32)
            bias = np.zeros((HEADS, width), np.float32)
            for head, channel in np.ndindex(HEADS, width):
                row = part * DIM + head * width + channel
                kernel[:, head, channel] = arrays[f"{theirs}attn.qkv.weight"][row]
                bias[head, channel] = arrays[f"{theirs}attn.qkv.bias"][row]
            packed[f"{attention}/{name}/kernel"] = kernel
            packed[f"{attention}/{name}/bias"] = bias
        kernel = np.zeros((HEADS, width, DIM), np.float32)
        for head, channel in np.ndindex(HEADS, width):
            kernel[head, channel] = arrays[f"{theirs}attn.proj.weight"][:, head * width + channel]
        packed[f"{attention}/out/kernel"] = kernel
        packed[f"{attention}/out/bias"] = arrays[f"{theirs}attn.proj.bias"]
    return packed


def test_vit_npz_equals_timm_with_the_other_gelu(small, tmp_path):
    arrays = small_arrays(_vit.timm)
    expected_module, expected_params, _ = build_network(small, arrays)
    np.savez(tmp_path / "small.npz", **as_npz(arrays))
    module, params, published = build_network(small, *read_weights(tmp_path / "small.npz"))
    assert module == expected_module.clone(tanh_gelu=True)
    assert module.num_classes == CLASSES
    assert published == NORMALIZATIONS["symmetric"]
    jax.tree.map(np.testing.assert_array_equal, params, expected_params)


def numpy_vit(arrays, images):
    """One block, as the JAX original computes it: from its arrays, in float64."""
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    block = "Transformer/encoderblock_0"
    attention = f"{block}/MultiHeadDotProductAttention_1"

    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * arrays[f"{name}/scale"] + arrays[f"{name}/bias"]

    def dense(name, x):
        return x @ arrays[f"{name}/kernel"] + arrays[f"{name}/bias"]

    def project(name, x):
        kernel, bias = arrays[f"{attention}/{name}/kernel"], arrays[f"{attention}/{name}/bias"]
        return np.einsum("td,dhw->thw", x, kernel) + bias

    logits = []
    for image in images:
        tokens = [arrays["cls"][0, 0]]
        for y, x in np.ndindex(SIZE // PATCH, SIZE // PATCH):
            patch = image[y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH]
            embedded = np.einsum("yxc,yxcd->d", patch, arrays["embedding/kernel"])
            tokens.append(embedded + arrays["embedding/bias"])
        hidden = np.stack(tokens) + arrays["Transformer/posembed_input/pos_embedding"][0]
        normed = norm(f"{block}/LayerNorm_0", hidden)
        query, key, value = (project(name, normed) for name in ("query", "key", "value"))
        weights = np.exp(np.einsum("qhw,khw->hqk", query, key) / np.sqrt(DIM / HEADS))
        weights /= weights.sum(-1, keepdims=True)
        heads = np.einsum("hqk,khw->qhw", weights, value)
        out = np.einsum("thw,hwd->td", heads, arrays[f"{attention}/out/kernel"])
        hidden = hidden + out + arrays[f"{attention}/out/bias"]
        inner = dense(f"{block}/MlpBlock_3/Dense_0", norm(f"{block}/LayerNorm_2", hidden))
        bent = np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3))
        hidden = hidden + dense(f"{block}/MlpBlock_3/Dense_1", 0.5 * inner * (1 + bent))
        logits.append(dense("head", norm("Transformer/encoder_norm", hidden[0])))
    return np.stack(logits)


def test_vit_block_equals_numpy(small, monkeypatch):
    one_block = ARCHITECTURES[small]._replace(module=SMALL.clone(depth=1))
    monkeypatch.setitem(ARCHITECTURES, "vit_one_block_test", one_block)
    arrays = as_npz(small_arrays(_vit.timm))
    arrays = {name: array for name, array in arrays.items() if "block_1" not in name}
    expected = numpy_vit(arrays, draw_images())
    module, params, _ = build_network("vit_one_block_test", arrays)
    logits = jax.jit(module.apply)({"params": params}, draw_images())
    assert relative_error(logits, expected) < 1e-5


@functools.cache
def published():
    """Library -> architecture -> name -> shape."""
    return json.loads(gzip.decompress(SHAPES.read_bytes()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("library", "layers"), [("torchvision", _vit.torchvision), ("timm", _vit.timm)]
)
def test_vit_full_size_arrays_have_the_published_shapes(library, layers, name):
    # torchvision has no small networks; ours must then differ from its base in sizes alone.
    expected = published()[library].get(name)
    found = published_shapes(layers(ARCHITECTURES[name].module), template(name))
    if expected is None:
        assert found.keys() == published()[library][name.replace("_s", "_b")].keys()
    else:
        assert found == {key: tuple(shape) for key, shape in expected.items()}


def test_vit_full_size_npz_arrays_have_the_documented_shapes():
    expected = {
        "cls": (1, 1, 768),
        "embedding/kernel": (16, 16, 3, 768),
        "embedding/bias": (768,),
        "Transformer/posembed_input/pos_embedding": (1, 197, 768),
        "Transformer/encoder_norm/scale": (768,),
        "Transformer/encoder_norm/bias": (768,),
        "head/kernel": (768, 1000),
        "head/bias": (1000,),
    }
    block = {
        "LayerNorm_0/scale": (768,),
        "LayerNorm_0/bias": (768,),
        "MultiHeadDotProductAttention_1/query/kernel": (768, 12, 64),
        "MultiHeadDotProductAttention_1/query/bias": (12, 64),
        "MultiHeadDotProductAttention_1/key/kernel": (768, 12, 64),
        "MultiHeadDotProductAttention_1/key/bias": (12, 64),
        "MultiHeadDotProductAttention_1/value/kernel": (768, 12, 64),
        "MultiHeadDotProductAttention_1/value/bias": (12, 64),
        "MultiHeadDotProductAttention_1/out/kernel": (12, 64, 768),
        "MultiHeadDotProductAttention_1/out/bias": (768,),
        "LayerNorm_2/scale": (768,),
        "LayerNorm_2/bias": (768,),
        "MlpBlock_3/Dense_0/kernel": (768, 3072),
        "MlpBlock_3/Dense_0/bias": (3072,),
        "MlpBlock_3/Dense_1/kernel": (3072, 768),
        "MlpBlock_3/Dense_1/bias": (768,),
    }
    for number in range(12):
        expected |= {f"Transformer/encoderblock_{number}/{k}": s for k, s in block.items()}
    found = published_shapes(_vit.npz(ARCHITECTURES["vit_b16"].module), template("vit_b16"))
    assert found == expected


@pytest.mark.parametrize("size", [(225, 224), (32, 36), (4, 4)])
def test_vit_refuses_images_that_patches_do_not_tile(size):
    with pytest.raises(
        ValueError, match=rf"images are {size[0]} x {size[1]} pixels, which patches of 8 do not"
    ):
        jax.eval_shape(SMALL.init, jax.random.key(0), jnp.zeros((1, *size, 3)))


@pytest.mark.parametrize(
    ("layers", "library", "missing"),
    [
        (_vit.torchvision, "torchvision", "encoder.layers.encoder_layer_1.ln_2.bias"),
        (_vit.torchvision, "torchvision", "heads.head.bias"),
        (_vit.timm, "timm", "blocks.0.attn.qkv.weight"),
        (_vit.timm, "timm", "norm.weight"),
        (_vit.npz, "the JAX original",
         "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/key/bias"),
        (_vit.npz, "the JAX original", "Transformer/posembed_input/pos_embedding"),
    ],
)  # fmt: skip
def test_vit_names_missing_and_unexpected_arrays(small, layers, library, missing):
    arrays = small_arrays(layers)
    del arrays[missing]
    # The layer before the head in the files for the classes of ImageNet-21k.
    arrays["pre_logits/kernel"] = np.zeros((DIM, DIM), np.float32)
    with pytest.raises(ValueError, match="not the weights of small_vit") as error:
        build_network(small, arrays)
    message = str(error.value)
    assert f"in the layout of {library}: " in message
    assert f"missing arrays {[missing]!r}, unexpected arrays ['pre_logits/kernel']" in message


def test_vit_position_embedding_decides_the_image_size(small):
    arrays = small_arrays(_vit.npz)
    name = "Transformer/posembed_input/pos_embedding"
    patch = SMALL.patch
    arrays[name] = np.zeros((1, 37, DIM), np.float32)
    assert build_network(small, arrays).module.image_size == 6 * patch
    arrays[name] = np.zeros((1, 38, DIM), np.float32)
    with pytest.raises(ValueError, match="wrong shapes") as error:
        build_network(small, arrays)
    assert f"'{name} (1, 38, 48) instead of (1, 17, 48)'" in str(error.value)


def with_positions(count):
    return small_arrays(_vit.timm) | {"pos_embed": draw_arrays({"p": (1, count, DIM)})["p"]}


def test_vit_reads_a_rectangle_of_the_stated_size(small):
    """On images of that size, it equals the square network with its resized embeddings."""
    square = build_network(small, small_arrays(_vit.timm))
    positions = square.params["position_embedding"]
    resized = np.asarray(resize_positions(positions, 1, (4, 6)))
    arrays = small_arrays(_vit.timm) | {"pos_embed": resized}
    assert arrays["pos_embed"].shape[1] == 25  # Also a square of 5 x 5 without a class token.
    size = 4 * PATCH, 6 * PATCH
    stated = Preprocessing(image_size=size)
    module, params, _ = build_network(small, arrays, preprocessing=stated)
    assert (module.image_size, module.token_positions) == (size, True)
    assert ARCHITECTURES[small].sizes(module, stated) == size
    images = np.random.default_rng(2).normal(size=(2, *size, 3)).astype(np.float32)
    expected = jax.jit(square.module.apply)({"params": square.params}, images)
    found = jax.jit(module.apply)({"params": params}, images)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "stated", "expected"),
    [
        # The usual size decides, as do registers (tested with all layouts) and the config.
        (16, Preprocessing(), (32, False)),
        (17, Preprocessing(), (32, True)),
        (26, Preprocessing(), (40, True)),
        (25, Preprocessing(arguments={"no_embed_class": True}), (40, False)),
        (25, Preprocessing(image_size=(40, 40)), (40, False)),
        (25, Preprocessing(arguments={"img_size": [48, 32]}), ((48, 32), True)),
        # A stated size that neither reading has is that of other images.
        (17, Preprocessing(image_size=(64, 96)), (32, True)),
        # Without a class token at these positions, 24 patches are a rectangle.
        (24, Preprocessing(image_size=(32, 48)), ((32, 48), False)),
    ],
)
def test_vit_positions_are_read_where_something_decides(small, count, stated, expected):
    module = build_network(small, with_positions(count), preprocessing=stated).module
    assert (module.image_size, module.token_positions) == expected


@pytest.mark.parametrize("stated", [Preprocessing(), Preprocessing(image_size=(224, 224))])
@pytest.mark.parametrize(("count", "side"), [(9, 3), (25, 5), (36, 6)])
def test_vit_refuses_positions_with_two_readings(small, count, side, stated):
    message = (
        rf"{count} position embeddings are those of {side} x {side} patches .* expected a conf"
    )
    with pytest.raises(ValueError, match=message):
        build_network(small, with_positions(count), preprocessing=stated)


def test_vit_norms_and_softmax_stay_float32_in_bfloat16():
    def half(tree):
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), tree)

    images = half(draw_images())
    params = half(jax.eval_shape(SMALL.init, jax.random.key(0), images)["params"])
    program = str(jax.make_jaxpr(lambda p, x: SMALL.apply({"params": p}, x))(params, images))
    for operation in ("rsqrt", "exp", "reduce_max"):
        dtypes = re.findall(rf"\w+:(\w+)\[[\d,]*\] = {operation}\b", program)
        assert set(dtypes) == {"f32"}, operation
    assert "bf16" in re.findall(r"\w+:(\w+)\[[\d,]*\] = dot_general\b", program)

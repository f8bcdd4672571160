"""Arrays are converted to parameters; each array is used or named."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax.training.train_state import TrainState
from jax.sharding import NamedSharding, PartitionSpec

from cfx_jax.classifiers import NORMALIZATIONS, Normalization
from cfx_jax.classifiers.vit import ViT
from cfx_jax.weights.architectures import ARCHITECTURES
from cfx_jax.weights.files import read_weights
from cfx_jax.weights.fitting import build_network, contradiction
from cfx_jax.weights.layout import published_names, published_shapes
from cfx_jax.weights.preprocessing import Preprocessing, read_preprocessing

LITE = ARCHITECTURES["efficientnet_lite0"]


@pytest.fixture(scope="module")
def published():
    """Arrays of zeros under the published names, with 7 classes."""
    module = LITE.module.clone(num_classes=7)
    layers = LITE.layouts[0].layers(module)
    shapes = published_shapes(layers, LITE.template(module))
    assert published_names(layers) == shapes.keys()
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def test_build_network_names_arrays_outside_of_the_network(published, caplog):
    wrapped = {f"state_dict.{name}": array for name, array in published.items()}
    with caplog.at_level(logging.WARNING, "cfx_jax"):
        module, _, _ = build_network("efficientnet_lite0", wrapped)
        assert caplog.text == ""
        others = {f"optimizer.state.{n}": np.zeros(1) for n in range(5)}
        build_network("efficientnet_lite0", wrapped | others)
    assert module.num_classes == 7
    (record,) = caplog.records
    assert record.getMessage() == (
        "efficientnet_lite0: ignoring 5 other arrays: optimizer.state.0, optimizer.state.1, "
        "optimizer.state.2, ..."
    )


# What training scripts save around a network.

MNIST = ARCHITECTURES["mnist_cnn"]


def draw(names, seed=0):
    """Random arrays of the MNIST network under names made of the published ones."""
    shapes = published_shapes(MNIST.layouts[0].layers(MNIST.module), MNIST.template(MNIST.module))
    rng = np.random.default_rng(seed)
    drawn = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {names(name): array for name, array in drawn.items()}


def below(prefix):
    return lambda name: prefix + name


def same(params, arrays):
    """Whether parameters are those of arrays under published names."""
    return np.array_equal(params["dense"]["kernel"], arrays["fc1.weight"].T)


ARRAYS = draw(below(""))


@pytest.mark.parametrize(
    "prefix",
    [
        "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "net.", "backbone.",
        "vit.", "model.", "state_dict.", "state_dict.model.", "state_dict.module._orig_mod.net.",
        "a.b.c.d.", "model_state_dict.", "ema.", "weights/", "opt/target/", "0.",
    ],
)  # fmt: skip
def test_build_network_removes_and_names_a_common_prefix(prefix, caplog):
    with caplog.at_level(logging.INFO, "cfx_jax"):
        _, params, _ = build_network("mnist_cnn", draw(below(prefix)))
    assert same(params, ARRAYS)
    (record,) = caplog.records
    first = next(iter(ARRAYS))
    assert record.getMessage() == (
        f"arrays of mnist_cnn: {prefix}{first} is read as {first}, and so on"
    )
    assert record.levelno == logging.INFO


def test_build_network_removes_wrappers_of_parts_from_names():
    _, params, _ = build_network(
        "mnist_cnn", draw(lambda n: n.replace("fc1.", "fc1.module._orig_mod."))
    )
    assert same(params, ARRAYS)


def test_build_network_keeps_names_that_only_wrappers_distinguish(caplog):
    both = draw(below("module."), seed=1) | ARRAYS
    assert same(build_network("mnist_cnn", both).params, draw(below(""), seed=1))
    assert "the file contains the weights of mnist_cnn 2 times" in caplog.text


def test_build_network_ignores_arrays_outside_of_the_wrapper(caplog):
    _, params, _ = build_network("mnist_cnn", draw(below("module.")) | {"n_averaged": np.ones(())})
    assert same(params, ARRAYS)
    assert "mnist_cnn: ignoring 1 other arrays: n_averaged" in caplog.text


@pytest.mark.parametrize(
    ("used", "other"),
    [
        ("state_dict.", "state_dict_ema."),
        ("model.", "model_ema.module."),
        ("net.", "ema_net."),
        ("net.", "ema."),
        ("model.", "averaged_model."),
        ("model.", "swa_model.module."),
        ("params.", "shadow."),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_build_network_prefers_raw_to_averaged_weights_and_says_so(used, other, is_first, caplog):
    raw, averaged = draw(below(used)), draw(below(other), seed=1)
    arrays = raw | averaged if is_first else averaged | raw
    assert same(build_network("mnist_cnn", arrays).params, ARRAYS)
    (record,) = caplog.records
    place = other.removesuffix("module.").rstrip(".")
    assert f"using those below {used.rstrip('.')!r};" in record.getMessage()
    assert record.getMessage().endswith(f"as in FILE#{place}")


def test_build_network_uses_the_first_of_two_networks_and_says_so(caplog):
    arrays = draw(below("student.")) | draw(below("teacher.backbone."), seed=1)
    assert same(build_network("mnist_cnn", arrays).params, ARRAYS)
    assert "using those below 'student';" in caplog.text
    assert "as in FILE#teacher.backbone\n" in caplog.text


def test_build_network_ignores_optimizer_state(caplog):
    arrays = draw(below("opt_state.0.mu."), seed=1) | draw(below("params."))
    assert same(build_network("mnist_cnn", arrays).params, ARRAYS)
    assert "mnist_cnn: ignoring 8 other arrays: opt_state.0.mu." in caplog.text
    assert "2 times" not in caplog.text


def test_build_network_names_an_object_in_place_of_an_array():
    arrays = draw(below("state_dict."))
    del arrays["state_dict.fc2.bias"]
    opaque = {"state_dict.fc2.bias": "net.Masked", "args": "argparse.Namespace"}
    with pytest.raises(
        ValueError, match=r"state_dict\.fc2\.bias is a net\.Masked, expected a tens"
    ):
        build_network("mnist_cnn", arrays, opaque)
    with pytest.raises(ValueError, match=r"^no tensors, but a net\.Net; save the state_dict"):
        build_network("mnist_cnn", {}, {"": "net.Net"})
    with pytest.raises(
        ValueError, match=r"^state_dict\.fc2\.bias is a tensor of torch\.f8, a type"
    ):
        build_network("mnist_cnn", arrays, {"state_dict.fc2.bias": "tensor of torch.f8"})
    whole = draw(below("state_dict.")) | {"args.x": np.ones(1)}
    assert same(build_network("mnist_cnn", whole, {"args": "argparse.Namespace"}).params, ARRAYS)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "bool", "complex64"])
@pytest.mark.parametrize("name", ["fc1.weight", "conv2.bias"])
def test_build_network_refuses_arrays_that_are_not_floats(name, dtype):
    arrays = ARRAYS | {name: ARRAYS[name].astype(dtype)}
    with pytest.raises(ValueError, match=rf"types \['{name} of {dtype} instead of floats'\]"):
        build_network("mnist_cnn", arrays)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", ">f4"])
def test_build_network_reads_floats_of_any_precision(dtype):
    dtype = jnp.dtype(dtype)
    params = build_network("mnist_cnn", {n: a.astype(dtype) for n, a in ARRAYS.items()}).params
    expected = ARRAYS["fc1.weight"].astype(dtype).astype(np.float32).T
    np.testing.assert_array_equal(params["dense"]["kernel"], expected)


def test_build_network_accepts_integer_batch_counts(published):
    counts = {"_bn0.num_batches_tracked": np.int64(3)}
    assert build_network("efficientnet_lite0", published | counts).module.num_classes == 7


@pytest.mark.parametrize(
    ("instead", "what"),
    [
        (["parametrizations.weight.original0", "parametrizations.weight.original1"],
         "remove_parametrizations"),
        (["parametrizations.weight.original", "parametrizations.weight.0._u"],
         "remove_parametrizations"),
        (["weight_g", "weight_v"], "remove_weight_norm"),
        (["weight_orig", "weight_u", "weight_v"], "remove_spectral_norm"),
        (["weight_orig", "weight_mask"], r"prune\.remove"),
        (["base_layer.weight", "lora_A.default.weight", "lora_B.default.weight"],
         "merge_and_unload"),
        (["base_layer.weight", "lora_magnitude_vector.default.weight"], "merge_and_unload"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_build_network_asks_to_merge_reparametrised_weights(instead, what, prefix):
    arrays = {prefix + name: array for name, array in ARRAYS.items() if name != "fc1.weight"}
    arrays |= {f"{prefix}fc1.{name}": ARRAYS["fc1.weight"] for name in instead}
    with pytest.raises(
        ValueError, match=rf"missing arrays \['fc1\.weight'\], .*; these are .*{what}"
    ):
        build_network("mnist_cnn", arrays)


@pytest.mark.parametrize(
    ("name", "shape", "what"),
    [
        ("layer1.0.se.fc1.weight", (4, 64, 1, 1), "a network with squeeze-and-excitation"),
        ("stages.0.blocks.0.mlp.grn.weight", (64,), "a ConvNeXt V2"),
        ("blocks.0.mlp.w12.weight", (64, 64), "a ViT with SwiGLU"),
        ("blocks.0.mlp.fc1_g.weight", (64, 64), "a ViT with SwiGLU"),
        ("blocks.0.attn.q_norm.weight", (64,), "a ViT that normalises queries and keys"),
        ("norm_pre.weight", (64,), "a ViT with a norm before its blocks"),
        ("attn_pool.q.weight", (64,), "a ViT that pools by attention"),
        ("blocks.0.attn.relative_position_bias_table", (64, 2), "a transformer with relative"),
        ("pre_logits/kernel", (64, 64), "a head with a hidden layer"),
        ("mask_token", (1, 64), "a network pre-trained by masked image modelling"),
        (
            "patch_embed.conv1.0.weight",
            (64, 64),
            "a ViT whose patches are embedded by a separate network",
        ),
    ],
)
def test_build_network_names_unsupported_kinds_of_weights(name, shape, what):
    with pytest.raises(ValueError, match=f"seem to be {what}.* not supported: use a model of your"):
        build_network("mnist_cnn", ARRAYS | {name: np.zeros(shape, np.float32)})


def test_build_network_recognises_grouped_and_wide_resnets():
    layers = ARCHITECTURES["resnet50"].layouts[0].layers(ARCHITECTURES["resnet50"].module)
    arrays = {name: np.zeros((1,), np.float32) for name in published_names(layers)}
    arrays["layer1.0.conv2.weight"] = np.zeros((128, 4, 3, 3), np.float32)
    with pytest.raises(ValueError, match="a ResNeXt or a wide ResNet, which is not supported: use"):
        build_network("resnet50", arrays)


@pytest.mark.parametrize("head", ["fc2.1", "fc.1", "fc", "head", "classifier.1", "classifier"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_build_network_finds_a_head_under_another_name(head, prefix):
    """The head is, for example, `fc2 = Sequential(Dropout(), Linear())`."""
    arrays = {prefix + n.replace("fc2", head): array for n, array in ARRAYS.items()}
    params = build_network("mnist_cnn", arrays).params
    np.testing.assert_array_equal(params["classifier"]["kernel"], ARRAYS["fc2.weight"].T)


def test_build_network_names_a_missing_or_multi_layer_head():
    arrays = {name: array for name, array in ARRAYS.items() if not name.startswith("fc2")}
    with pytest.raises(ValueError, match=r"no head \(fc2\.weight\): use weights that were trained"):
        build_network("mnist_cnn", arrays)
    for layer in (0, 3):
        arrays |= {f"fc2.{layer}.weight": np.zeros((5, 5)), f"fc2.{layer}.bias": np.zeros(5)}
    with pytest.raises(
        ValueError, match=r"of several layers \(fc2\.0\.weight, fc2\.3\.weight\): use a model"
    ):
        build_network("mnist_cnn", arrays)


def test_build_network_shortens_a_message_about_many_names():
    with pytest.raises(ValueError, match=r"missing arrays \[.*\] and 96 more") as caught:
        build_network("resnet18", ARRAYS)
    assert len(str(caught.value)) < 700


# Parameters of our own networks.


def save(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)


def train_state(params):
    return TrainState.create(apply_fn=MNIST.module.apply, params=params, tx=optax.adam(1e-3))


def sharded(params):
    mesh = jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])
    return jax.tree.map(
        lambda a: jax.device_put(
            a, NamedSharding(mesh, PartitionSpec(*[None] * (a.ndim - 1), "x"))
        ),
        params,
    )


TREES = {
    "params": lambda params: params,
    "variables": lambda params: {"params": params},
    "train state": train_state,
    "train state and more": lambda params: {
        "state": train_state(params),
        "key": jax.random.key(0),
        "epoch": 3,
    },
    "sharded": sharded,
    "sharded train state": lambda params: train_state(sharded(params)),
    "with averages": lambda params: {
        "params": params,
        "ema_params": jax.tree.map(jnp.zeros_like, params),
    },
}


@pytest.mark.parametrize("case", TREES)
def test_build_network_reads_parameters_from_orbax(tmp_path, case):
    params = jax.tree.map(jnp.asarray, build_network("mnist_cnn", ARRAYS).params)
    save(tmp_path / "net", TREES[case](params))
    again = build_network("mnist_cnn", *read_weights(tmp_path / "net"))
    assert again.normalization == NORMALIZATIONS["mnist"]
    jax.tree.map(np.testing.assert_array_equal, again.params, params)


@pytest.mark.parametrize(
    "name", ["efficientnet_lite0", "resnet18", "resnet50", "vgg16_bn", "alexnet", "vit_s32"]
)
def test_build_network_reads_the_parameters_of_every_network(name):
    """Names and shapes alone decide; norms are folded."""
    architecture = ARCHITECTURES[name]
    module = architecture.module
    template = jax.tree.leaves_with_path(architecture.template(module))
    expected = {
        join.join(entry.key for entry in path): leaf.shape
        for join in "./"
        for path, leaf in template
    }
    found = {}
    for layout in architecture.layouts[-2:]:
        found |= published_shapes(layout.layers(module), architecture.template(module))
    assert found == expected


# Metadata next to the weights.

SMALL = ViT(patch=16, dim=48, depth=1, heads=3, num_classes=5)


@pytest.fixture
def timm_arrays(monkeypatch):
    """Arrays of a small network in the layout of timm, under the name of a large one."""
    small = ARCHITECTURES["vit_s16"]._replace(module=SMALL)
    monkeypatch.setitem(ARCHITECTURES, "vit_s16", small)
    (layout,) = (layout for layout in small.layouts if layout.name == "timm")
    shapes = published_shapes(layout.layers(SMALL), small.template(SMALL))
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def test_build_network_prefers_stated_preprocessing_to_the_layout(timm_arrays, caplog):
    deit = Preprocessing("deit_small_patch16_224.fb_in1k", NORMALIZATIONS["imagenet"])
    found = build_network("vit_s16", timm_arrays, preprocessing=deit)
    assert found.normalization == NORMALIZATIONS["imagenet"]
    assert caplog.text == ""
    found = build_network("vit_s16", timm_arrays)
    assert found.normalization == NORMALIZATIONS["symmetric"]
    assert "using 'symmetric', that of most networks of timm" in caplog.text


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("resnet18", "resnetblur18"), ("resnet18", "resnet18t"), ("resnet50", "resnetaa50.a1_in1k"),
        ("resnet50", "resnet18"), ("vit_s16", "vit_small_patch32_224"), ("vgg16", "vgg16_bn"),
        ("vit_s16", "vit_base_patch16_224"), ("mnist_cnn", "resnet18"),
        ("vit_b16", "vit_base_patch16_clip_224"), ("convnext_tiny", "convnextv2_tiny"),
    ],
)  # fmt: skip
def test_build_network_refuses_weights_stated_for_another_network(name, stated):
    with pytest.raises(
        ValueError,
        match=rf"the weights, they are of '{stated}', which is not {name},",
    ):
        build_network(name, {}, preprocessing=Preprocessing(stated))


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("resnet18", "resnet18.a1_in1k"), ("resnet50", "tv_resnet50"), ("vgg16", "vgg16"),
        ("resnet50", "gluon_resnet50_v1b"), ("vit_s16", "vit_small_patch16_224.augreg_in1k"),
        ("vit_b32", "vit_base_patch32_384"), ("vit_l16", "vit_large_patch16_224"), ("vit_b16", ""),
        ("vit_b16", "deit_base_patch16_224"), ("vit_b16", "vit_b16"), ("resnet50", "resnet50d"),
        ("vit_t16", "deit_tiny_distilled_patch16_224"), ("vit_b16", "deit3_base_patch16_384"),
        ("vit_s14", "vit_small_patch14_reg4_dinov2"), ("vit_b16", "vit_base_patch16_gap_224"),
        ("convnext_tiny", "convnext_tiny.in12k_ft_in1k"), ("resnet50", "gluon_resnet50_v1d"),
    ],
)  # fmt: skip
def test_build_network_knows_the_timm_names_of_a_network(name, stated):
    with pytest.raises(ValueError, match=f"not the weights of {name} in the layout"):
        build_network(name, {}, preprocessing=Preprocessing(stated))


# As timm writes it on the hub, what the arrays tell and what is about training among it.
HUB = {
    "resnet18": {
        "architecture": "resnet18", "num_classes": 7, "num_features": 512, "global_pool": "avg",
        "pretrained_cfg": {
            "tag": "a1_in1k", "custom_load": False, "input_size": [3, 224, 224],
            "test_input_size": [3, 288, 288], "fixed_input_size": False, "crop_mode": "center",
            "num_classes": 1000, "pool_size": [7, 7], "first_conv": "conv1", "classifier": "fc",
            "license": "apache-2.0", "origin_url": "https://example.com", "paper_ids": ["arXiv:1"],
        },
    },
    "vit_s16": {
        "architecture": "vit_small_patch16_224", "num_classes": 1000, "num_features": 384,
        "global_pool": "token",
        "pretrained_cfg": {
            "tag": "augreg_in21k_ft_in1k", "custom_load": True, "input_size": [3, 224, 224],
            "fixed_input_size": True, "pool_size": None, "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
        "model_args": {"drop_path_rate": 0.1, "img_size": 224, "num_heads": 6, "act_layer": None},
    },
    "efficientnet_lite0": {
        "architecture": "efficientnet_lite0", "num_features": 1280, "global_pool": "avg",
        "pretrained_cfg": {"input_size": [3, 224, 224], "first_conv": "conv_stem"},
    },
    "vgg16": {"architecture": "vgg16", "num_features": 4096, "global_pool": "avg"},
    "mnist_cnn": {"architecture": "mnist_cnn", "in_chans": 1},
}  # fmt: skip
HUB["vit_b16"] = HUB["vit_s16"] | {"architecture": "deit_base_patch16_224", "model_args": {}}


@pytest.mark.parametrize("name", HUB)
def test_contradiction_accepts_timm_metadata_of_the_same_network(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(HUB[name]))
    assert contradiction(read_preprocessing(tmp_path), name) == ""


@pytest.mark.parametrize(
    ("name", "changes", "stated"),
    [
        ("resnet18", {"global_pool": "max"}, "global_pool 'max'"),
        ("resnet18", {"global_pool": ""}, "global_pool ''"),
        ("resnet18", {"model_args": {"output_stride": 8}}, "output_stride 8"),
        ("resnet18", {"model_args": {"output_stride": 32, "act_layer": "silu"}}, "act_layer 'silu"),
        ("resnet18", {"model_args": {"aa_layer": "blurpool"}}, "aa_layer 'blurpool'"),
        ("resnet18", {"in_chans": 1}, "in_chans 1"),
        ("resnet18", {"pretrained_cfg": {"input_size": [1, 224, 224]}}, "in_chans 1"),
        ("vgg16", {"global_pool": "catavgmax"}, "global_pool 'catavgmax'"),
        ("efficientnet_lite0", {"act_layer": "swish"}, "act_layer 'swish'"),
        ("vit_s16", {"global_pool": "map"}, "global_pool 'map'"),
        ("vit_s16", {"model_args": {"num_heads": 12}}, "num_heads 12"),
        ("vit_s16", {"model_args": {"act_layer": "quick_gelu"}}, "act_layer 'quick_gelu'"),
        ("mnist_cnn", {"in_chans": 3}, "in_chans 3"),
    ],
)
def test_build_network_refuses_timm_metadata_of_another_network(tmp_path, name, changes, stated):
    (tmp_path / "config.json").write_text(json.dumps(HUB[name] | changes))
    with pytest.raises(
        ValueError, match=f"the weights, their network has {stated}.*is not {name}, "
    ):
        build_network(name, {}, preprocessing=read_preprocessing(tmp_path))


def test_build_network_refuses_a_normalization_of_other_channels():
    colour = Preprocessing(normalization=Normalization((0.1, 0.2, 0.3), (1.0, 1.0, 1.0)))
    with pytest.raises(
        ValueError, match="a normalization of 3 channels, and images of mnist_cnn have 1"
    ):
        build_network("mnist_cnn", ARRAYS, preprocessing=colour)

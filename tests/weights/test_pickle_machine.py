"""The pickle machine, on pickles of the standard library and on single opcodes."""

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import io
import logging
import math
import pathlib
import pickle
import random
import re
import types
import uuid

import numpy as np
import pytest

from cfx_jax.weights import _pickle_machine
from cfx_jax.weights._pickle_machine import (
    Dict,
    Global,
    Opaque,
    Tensor,
    TorchStorage,
    UnsafePickleError,
    WeightsFormatError,
    interpret,
)


def run(code):
    return interpret(io.BytesIO(b"\x80\x02" + code + b"."))


def text(value):
    """The opcode of a short text."""
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def plain(value):
    """A value with Python's dicts for the inert ones."""
    match value:
        case Dict():
            return {plain(key): plain(item) for key, item in value.entries}
        case list() | tuple():
            return type(value)(map(plain, value))
    return value


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_interpret_builds_what_the_standard_library_builds(protocol):
    shared = ["twice"]
    value = {
        "numbers": [0, -1, 255, 70_000, -(2**40), 2**63, 0.5, True, False, None],
        "texts": ["", "狐", "long " * 100],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "lists": [[], [1], [shared, shared]],
        "dicts": {"empty": {}, 7: {-1: "nested"}},
        "ordered": collections.OrderedDict(b=1, a=2),
    }
    if protocol > 2:  # protocol 2 has no bytes and calls a codec instead
        value["bytes"] = [b"", b"x" * 300]
    found = interpret(io.BytesIO(pickle.dumps(value, protocol))).value
    assert plain(found) == value
    fields = dict(found.entries)
    assert list(plain(fields["ordered"])) == ["b", "a"]
    assert fields["lists"][2][0] is fields["lists"][2][1]


def test_interpret_reads_consecutive_pickles():
    stream = io.BytesIO(pickle.dumps(1) + pickle.dumps("two") + b"rest")
    assert [interpret(stream).value, interpret(stream).value] == [1, "two"]
    assert stream.read() == b"rest"


STORAGE = (
    b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("key") + text("cpu") + b"K\x06tQ"
)
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x01(K\x02t(K\x03t\x89NtR"


def test_interpret_tensor_is_a_view_of_a_storage():
    value, storages = run(b"(" + TENSOR + STORAGE + b"ctorch\nfloat32\nt")
    storage = TorchStorage("key", np.dtype(np.float32), 6)
    assert value == (Tensor(storage, 1, (2,), (3,)), storage, Global("torch.float32"))
    assert storages == {"key": storage}
    assert storage.num_bytes == 24


def test_interpret_accepts_a_dict_that_holds_itself():
    value = run(b"}q\x00" + text("me") + b"h\x00s").value
    assert value.entries == [("me", value)]


REFUSED = {
    "os.system": b"cos\nsystem\n" + text("echo") + b"\x85R",
    "builtins.eval": b"cbuiltins\neval\n" + text("1") + b"\x85R",
    "builtins.exec": b"c__builtin__\nexec\n" + text("1") + b"\x85R",
    "subprocess.getoutput": b"ccommands\ngetoutput\n" + text("1") + b"\x85R",
    "posix.system": text("posix") + text("system") + b"\x93" + text("echo") + b"\x85R",
    "torch.load": b"ctorch\nload\n" + text("x") + b"\x85R",
    "torch.hub.load": b"ctorch.hub\nload\n" + text("x") + b"\x85R",
    "cloudpickle.loads": b"ccloudpickle\nloads\n" + text("x") + b"\x85R",
    "subprocess.Popen": b"csubprocess\nPopen\n)\x81",
    "os.popen": b"(" + text("x") + b"ios\npopen\n",
    "shutil.rmtree": b"(cshutil\nrmtree\n" + text("x") + b"o",
    "types.FunctionType": b"ctypes\nFunctionType\n)}\x92",
    "pathlib.Path.unlink": text("pathlib") + text("Path.unlink") + b"\x93)R",
    "datetime.datetime.today": b"cbuiltins\ngetattr\n"
    + b"(cdatetime\ndatetime\n" + text("today") + b"tR",
    "net.Net.__init__.__globals__": text("net") + text("Net.__init__.__globals__") + b"\x93",
    "copyreg.extension 7": b"\x82\x07",
    "builtins.help": b"cbuiltins\nhelp\n}b",
    # Named only, for something harmless to call.
    "nt.system": b"cbuiltins\nmap\n(cnt\nsystem\n](" + text("echo") + b"etR",
    "marshal.loads": b"cfunctools\npartial\n(cmarshal\nloads\ntR",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_interpret_refuses_calls_by_name(name):
    with pytest.raises(UnsafePickleError, match=f"refers to {re.escape(repr(name))}"):
        run(REFUSED[name])


def test_interpret_refuses_code_that_pickle_would_run(tmp_path):
    """A pickle that runs code under `pickle.load` runs none here."""

    class Harm:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'harm')!r}, 'w').close()",)

    code = pickle.dumps(Harm())
    with pytest.raises(UnsafePickleError, match=r"builtins\.exec"):
        interpret(io.BytesIO(code))
    assert not (tmp_path / "harm").exists()
    pickle.loads(code)
    assert (tmp_path / "harm").exists(), "the pickle would have done it"


class Shade(enum.Enum):
    """An enum of a training script."""

    DARK = 1


class Attributes(dict):
    """A dict of somebody's own."""


@dataclasses.dataclass
class Options:
    """Arguments of a training script."""

    rate: float = 0.1


BESIDE = {
    "argparse.Namespace": argparse.Namespace(rate=0.1, out=pathlib.PurePosixPath("/runs")),
    "collections.Counter": collections.Counter("aab"),
    "collections.deque": collections.deque([1, 2]),
    "builtins.set": {1, 2},
    "builtins.frozenset": frozenset("ab"),
    "builtins.complex": 1j,
    "builtins.range": range(3),
    "builtins.slice": slice(1, 2),
    "builtins.ValueError": ValueError("diverged"),
    f"{pathlib.PosixPath.__module__}.PosixPath": pathlib.PosixPath("/runs"),
    f"{pathlib.PosixPath.__module__}.PureWindowsPath": pathlib.PureWindowsPath("C:/runs"),
    "datetime.datetime": datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
    "datetime.timedelta": datetime.timedelta(hours=3),
    "decimal.Decimal": decimal.Decimal("0.1"),
    "fractions.Fraction": fractions.Fraction(1, 3),
    "uuid.UUID": uuid.UUID(int=7),
    "random.Random": random.Random(0),
    "re._compile": re.compile("a+"),
    "types.SimpleNamespace": types.SimpleNamespace(rate=0.1),
    "functools.partial": functools.partial(int, base=2),
    "logging.getLogger": logging.getLogger("training"),
    f"{__name__}.Options": Options(),
    f"{__name__}.Shade": Shade.DARK,
    f"{__name__}.Attributes": Attributes(rate=0.1),
    "numpy.dtype": np.dtype("f4"),
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", BESIDE)
def test_interpret_names_other_objects_without_creating_them(name, protocol):
    value = interpret(io.BytesIO(pickle.dumps(BESIDE[name], protocol))).value
    assert isinstance(value, Opaque)
    assert value.name == name


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        np.float64(0.5), np.int64(3), np.bool_(True), np.ones((2, 3)), np.random.default_rng(0),
        random.Random(0).getstate(), [{1}, ({2}, {"a": {3}})], 2**5000, -(2**2100), bytearray(b"x"),
        b"x", ..., NotImplemented, math.tanh, Options, collections.defaultdict(list, a=[1]),
    ],
    ids=str,
)  # fmt: skip
def test_interpret_accepts_other_harmless_values(value, protocol):
    stream = io.BytesIO(pickle.dumps((value, "end"), protocol))
    assert interpret(stream).value[1] == "end"
    assert stream.read() == b""


OPAQUE = {
    "torch.device": b"ctorch\ndevice\n" + text("cuda") + b"\x85R",
    "net.Masked": b"ctorch._tensor\n_rebuild_from_type_v2\n"
    b"(ctorch._utils\n_rebuild_tensor_v2\ncnet\nMasked\n)}tR",
    "pathlib.Path": b"cpathlib\nPath\n)}\x92",
    "net.Old": b"(inet\nOld\n",
    "net.Older": b"(cnet\nOlder\no",
    "net.Color": b"ccopy_reg\n_reconstructor\n(cnet\nColor\nc__builtin__\nobject\nNtR}b",
    r"o\q.x": b"co\\q\nx\n)R",  # no escape: backslashes of a name are its own
}


@pytest.mark.parametrize("name", OPAQUE)
def test_interpret_names_an_unknown_class(name):
    value = run(OPAQUE[name]).value
    assert isinstance(value, Opaque)
    assert value.name == name


def test_interpret_opaque_values_keep_module_state():
    value = run(b"cnet\nNet\n)\x81}" + text("training") + b"\x88sb").value
    assert (value.name, value.state.entries) == ("net.Net", [("training", True)])
    entries = run(b"cnet\nConfig\n)\x81(K\x01K\x02u").value.entries
    assert entries == [(1, 2)]


def test_interpret_attributes_of_a_global_are_names():
    code = b"cbuiltins\ngetattr\n(cnet\nColor\n" + text("RED") + b"tR"
    assert run(code).value == Global("net.Color.RED")


DAMAGED = {
    "call of what a call would give": (b"cnet\nf\n)R)R", "has no name"),
    "attributes of a name": (b"cnet\nNet\n}b", "has no attributes"),
    "call of no name": (text("x") + b")R", "has no name"),
    "call without tuple": (b"ccollections\nOrderedDict\n]R", "found a list, expected a tuple"),
    "append to no list": (b"NNa", "found a NoneType, expected a list"),
    "item of no dict": (b"NNNs", "found a NoneType, expected a dict"),
    "name of no text": (b"NN\x93", "found a NoneType, expected a string"),
    "persistent id of another kind": (b"NQ", "is not a torch storage"),
    "opcode": (b"I1\n", "opcode INT"),
    "old string opcode with a bad escape": (b"S'\\q'\n", "opcode STRING"),
    "empty stack": (b"\x85", "damaged pickle before byte 3"),
    "unset memo": (b"h\x09", "damaged pickle before byte 4"),
    "text without end": (b"X\xff\xff\xff\xff", "damaged pickle"),
    "name without end": (b"ctorch\nfloat", "damaged pickle"),
    "key without value": (b"}(NNNu", "damaged pickle"),
    "mark without start": (b"t", "damaged pickle"),
    "no opcode": (b"\xff", "ends early or is not"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_interpret_refuses_damage(case):
    code, message = DAMAGED[case]
    with pytest.raises(WeightsFormatError, match=message):
        run(code)


def test_interpret_refuses_a_pickle_without_stop(monkeypatch):
    with pytest.raises(WeightsFormatError, match="ends early"):
        interpret(io.BytesIO(b"\x80\x02N"))
    monkeypatch.setattr(_pickle_machine, "_MAX_OPCODES", 100)
    with pytest.raises(WeightsFormatError, match="more than 100 opcodes"):
        run(b"N" * 100)

"""Tests of weights/pickle_machine.py on pickles of the standard library and on single opcodes."""

import collections
import io
import pickle
import re

import numpy as np
import pytest

from cfx_jax.weights import pickle_machine
from cfx_jax.weights.pickle_machine import (
    Dict,
    Global,
    Storage,
    Tensor,
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
def test_builds_what_the_standard_library_builds(protocol):
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


def test_reads_one_pickle_after_the_other():
    stream = io.BytesIO(pickle.dumps(1) + pickle.dumps("two") + b"rest")
    assert [interpret(stream).value, interpret(stream).value] == [1, "two"]
    assert stream.read() == b"rest"


STORAGE = (
    b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("key") + text("cpu") + b"K\x06tQ"
)
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x01(K\x02t(K\x03t\x89NtR"


def test_a_tensor_is_a_window_on_a_storage():
    value, storages = run(b"(" + TENSOR + STORAGE + b"ctorch\nfloat32\nt")
    storage = Storage("key", np.dtype(np.float32), 6)
    assert value == (Tensor(storage, 1, (2,), (3,)), storage, Global("torch.float32"))
    assert storages == {"key": storage}
    assert storage.num_bytes == 24


def test_a_dict_may_hold_itself():
    value = run(b"}q\x00" + text("me") + b"h\x00s").value
    assert value.entries == [("me", value)]


REFUSED = {
    "os.system": b"cos\nsystem\n" + text("echo") + b"\x85R",
    "builtins.eval": b"cbuiltins\neval\n" + text("1") + b"\x85R",
    "posix.system": text("posix") + text("system") + b"\x93" + text("echo") + b"\x85R",
    "torch.load": b"ctorch\nload\n" + text("x") + b"\x85R",
    "torch._tensor._rebuild_from_type_v2": b"ctorch._tensor\n_rebuild_from_type_v2\n(NN)}tR",
    "subprocess.Popen": b"csubprocess\nPopen\n)\x81",
    "pathlib.Path": b"cpathlib\nPath\n)}\x92",
    "os.popen": b"(" + text("x") + b"ios\npopen\n",
    "shutil.rmtree": b"(cshutil\nrmtree\n" + text("x") + b"o",
    "copyreg extension 7": b"\x82\x07",
    r"o\\q.x": b"co\\q\nx\n)R",  # no escape: backslashes of a name are its own
    "builtins.help": b"cbuiltins\nhelp\n}b",
    "torch.nn.Linear": b"(" + text("module") + b"ctorch.nn\nLinear\ntQ",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_by_name_what_the_pickle_would_call(name):
    with pytest.raises(UnsafePickleError, match=re.escape(name)):
        run(REFUSED[name])


def test_refuses_what_the_standard_library_would_run(tmp_path):
    """A pickle that does harm under `pickle.load` does none here."""

    class Harm:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'harm')!r}, 'w').close()",)

    code = pickle.dumps(Harm())
    with pytest.raises(UnsafePickleError, match=r"builtins\.exec"):
        interpret(io.BytesIO(code))
    assert not (tmp_path / "harm").exists()
    pickle.loads(code)
    assert (tmp_path / "harm").exists(), "the pickle would have done it"


DAMAGED = {
    "call of no name": (text("x") + b")R", "has no name"),
    "call without tuple": (b"ccollections\nOrderedDict\n]R", "found a list, expected a tuple"),
    "append to no list": (b"NNa", "found a NoneType, expected a list"),
    "item of no dict": (b"NNNs", "found a NoneType, expected a dict"),
    "name of no text": (b"NN\x93", "found a NoneType, expected a string"),
    "persistent id of another kind": (b"NQ", "another kind than a torch storage"),
    "opcode": (b"I1\n", "opcode INT"),
    "old string opcode with a bad escape": (b"S'\\q'\n", "opcode STRING"),
    "empty stack": (b"\x85", "damaged pickle before byte 3"),
    "unset memo": (b"h\x09", "damaged pickle before byte 4"),
    "text without end": (b"X\xff\xff\xff\xff", "damaged pickle"),
    "name without end": (b"ctorch\nfloat", "damaged pickle"),
    "key without value": (b"}(NNNu", "damaged pickle"),
    "mark without start": (b"t", "damaged pickle"),
    "no opcode": (b"\xff", "ends early or is none"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_refuses_damage(case):
    code, message = DAMAGED[case]
    with pytest.raises(WeightsFormatError, match=message):
        run(code)


def test_refuses_a_pickle_without_stop(monkeypatch):
    with pytest.raises(WeightsFormatError, match="ends early"):
        interpret(io.BytesIO(b"\x80\x02N"))
    monkeypatch.setattr(pickle_machine, "_MAX_OPCODES", 100)
    with pytest.raises(WeightsFormatError, match="more than 100 opcodes"):
        run(b"N" * 100)

"""Interprets the pickle of a PyTorch checkpoint; nothing in it is imported, called or run.

A pickle is a program for a stack machine. This machine supports the opcodes for data and the few
callables that create tensors, and builds inert values for them. Every other object becomes an
`Opaque` with its name. Names that could run code are refused.
"""

import dataclasses
import io
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from cfx_jax.weights._pickle_names import is_data, present_name

_STORAGES = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
    "torch.ComplexFloatStorage": np.dtype(np.complex64),
    "torch.ComplexDoubleStorage": np.dtype(np.complex128),
    # Storages of values other than weights; their tensors are not read.
    **dict.fromkeys(("torch.QInt8Storage", "torch.QUInt8Storage"), np.dtype(np.uint8)),
    **dict.fromkeys(("torch.QUInt4x2Storage", "torch.QUInt2x4Storage"), np.dtype(np.uint8)),
    **dict.fromkeys(("torch.UntypedStorage", "torch.storage.UntypedStorage"), np.dtype(np.uint8)),
    "torch.QInt32Storage": np.dtype(np.int32),
}
# Allows checkpoints of about 50 000 tensors and bounds time and memory for any file.
_MAX_OPCODES = 2_000_000
_MAX_DIMENSIONS = 64  # The limit of NumPy.
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


class WeightsFormatError(ValueError):
    """Error for a file that is damaged, truncated or not a PyTorch checkpoint."""


class UnsafePickleError(ValueError):
    """Error for a file that refers to a name that could run code; nothing was run."""


@dataclasses.dataclass(frozen=True)
class Global:
    """The name of an object in a Python module, never the object itself."""

    name: str


@dataclasses.dataclass(frozen=True)
class TorchStorage:
    """Description of a storage in the pickle; its `count` elements are elsewhere in the file."""

    key: str
    dtype: np.dtype
    count: int

    @property
    def num_bytes(self) -> int:
        """Length of the storage in the file."""
        return self.count * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A strided view of a storage; offset and stride are in elements."""

    storage: TorchStorage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclasses.dataclass(eq=False)
class Dict:
    """Entries of a dict in file order; not hashed, since malicious keys can make hashing slow."""

    ordered: bool = False
    entries: list[tuple[Any, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Opaque(Dict):
    """Placeholder for an object that is not created: the name of its class or of its factory.

    `entries` are the entries of a dict-like object, `state` is the state with its attributes.
    """

    name: str = ""
    state: Any = None


class Pickled(NamedTuple):
    """The content of one pickle.

    Attributes:
        value: value that the pickle builds, made of `Dict`, `Opaque`, `Tensor`, `TorchStorage`,
            `Global` and the Python types list, tuple, str, bytes, bytearray, int, float, bool and
            None. A `Dict` or a list may contain itself.
        storages: all storages that the pickle refers to, by key.
    """

    value: Any
    storages: dict[str, TorchStorage]


def interpret(stream: io.BytesIO) -> Pickled:
    """Interprets the pickle at the position of a stream and moves the position after its STOP.

    Args:
        stream: bytes, which need not be trusted.

    Returns:
        The value and the storages of the pickle.

    Raises:
        WeightsFormatError: the pickle is damaged, or of a kind that torch does not write.
        UnsafePickleError: the pickle refers to a name that could run code; the message contains it.
    """
    machine = _Machine(stream)
    return Pickled(machine.run(), machine.storages)


class _Machine:
    """The part of the pickle machine that checkpoints need; all its values are inert."""

    def __init__(self, stream: io.BytesIO) -> None:
        self.storages: dict[str, TorchStorage] = {}
        self._stream = stream
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []  # Stacks saved by MARK.
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Interprets one pickle up to and including its STOP, and returns its value."""
        try:
            for _ in range(_MAX_OPCODES):
                # Not pickletools.genops, which also decodes the arguments of refused opcodes.
                opcode = _OPCODES.get(self._stream.read(1))
                if opcode is None:
                    raise WeightsFormatError(
                        "the pickle ends early or is not a pickle; expected an opcode"
                    )
                name = opcode.name
                if name == "STOP":
                    return self._stack.pop()
                if name not in _HANDLERS:
                    raise WeightsFormatError(f"pickle opcode {name}, which torch does not write")
                argument: Any = None
                if name in ("GLOBAL", "INST"):
                    argument = _read_name(self._stream)
                elif opcode.arg:
                    argument = opcode.arg.reader(self._stream)
                _HANDLERS[name](self, argument)
        except (WeightsFormatError, UnsafePickleError):
            raise
        except (ValueError, LookupError) as error:  # A reader, an empty stack or an unset memo.
            position = self._stream.tell()
            raise WeightsFormatError(f"damaged pickle before byte {position}: {error}") from error
        raise WeightsFormatError(f"a pickle of more than {_MAX_OPCODES} opcodes")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _mark(self, _: Any) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _pop_many(self, count: int) -> list[Any]:
        return [self._stack.pop() for _ in range(count)][::-1]

    def _memoize(self, slot: int | None) -> None:
        self._memo[len(self._memo) if slot is None else slot] = self._stack[-1]

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], Opaque):  # For example a deque or a set.
            _expect(self._stack[-1], list, "a list to append to").extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = _expect(self._stack[-1], Dict, "a dict to set items of")
        target.entries.extend(zip(items[::2], items[1::2], strict=True))

    def _global(self, names: tuple[str, str]) -> None:
        self._push(_make_global(present_name(*names)))

    def _stack_global(self, _: Any) -> None:
        module, name = (_expect(part, str, "a string as name") for part in self._pop_many(2))
        self._global((module, name))

    def _persistent(self, _: Any) -> None:
        match self._stack.pop():
            case ("storage", Global(type_name), str(key), str(), count, *view) if not any(view):
                pass
            case ("module", Global() as module, *_):
                self._push(module)
                return
            case _:
                raise WeightsFormatError("a persistent id that is not a torch storage")
        if type_name not in _STORAGES:
            raise WeightsFormatError(f"{type_name[:200]!r}; expected one of {', '.join(_STORAGES)}")
        storage = TorchStorage(key, _STORAGES[type_name], _index(count))
        if self.storages.setdefault(key, storage) != storage:
            raise WeightsFormatError(f"storage {key[:40]!r} is described in two ways; expected one")
        self._push(storage)

    def _reduce(self, _: Any) -> None:
        function, arguments = self._pop_many(2)
        name = _expect_name(function)
        self._push(_call(name, _expect(arguments, tuple, "a tuple of arguments")))

    def _new(self, parts: list[Any]) -> None:
        self._push(Opaque(name=_expect_name(parts[0])))

    def _build(self, _: Any) -> None:
        target, state = self._pop_many(2)
        if isinstance(target, Opaque):
            target.state = state
        elif not (isinstance(target, Dict) and target.ordered):
            raise WeightsFormatError("the pickle changes a value that has no attributes")
        self._push(target)  # `_metadata` of a state dict is dropped.


def _read_name(stream: io.BytesIO) -> tuple[str, str]:
    """Reads module and name from one line each; pickletools would decode backslashes in them."""
    lines = [stream.readline(), stream.readline()]
    if not lines[1].endswith(b"\n"):
        raise ValueError("a name without end")
    return lines[0][:-1].decode(), lines[1][:-1].decode()


def _make_global(name: str) -> Global:
    if not is_data(name):
        by_pickle = name == "torch.storage._load_from_bytes"
        reason = "as pickle.dump writes tensors" if by_pickle else "which no checkpoint needs"
        raise UnsafePickleError(
            f"the file refers to {name[:200]!r}, which could run code, {reason}; nothing was "
            "run. If you trust the file, load it where it was written and save "
            "`model.state_dict()` with torch.save"
        )
    return Global(name)


def _expect_name(function: Any) -> str:
    if not isinstance(function, Global):
        raise WeightsFormatError("the pickle calls a value that has no name")
    return function.name


_TENSORS = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter")
_TENSOR_FACTORIES = (
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
)


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    """Returns an inert value that replaces the result of a callable."""
    match name, arguments:
        case "builtins.getattr", (Global(owner), str(attribute)):  # Some enums are saved like this.
            return _make_global(f"{owner}.{attribute}")
        case ("collections.OrderedDict", ()) | ("collections.defaultdict", (_,)):
            return Dict(ordered=True)
        case "torch.Size", (tuple(size),):
            return size
        case "torch._utils._rebuild_parameter", (Tensor() as tensor, _, _):
            return tensor
        case "torch._utils._rebuild_parameter_with_state", (Tensor() as tensor, _, _, _):
            return tensor
        case "torch._tensor._rebuild_from_type_v2", (Global(function), Global(kind), tuple(), _):
            # A tensor with additional attributes, or of a subclass whose meaning may differ.
            return _call(function, arguments[2]) if kind in _TENSORS else Opaque(name=kind)
        case (
            "torch._utils._rebuild_tensor_v2",
            (TorchStorage() as storage, offset, tuple(size), tuple(stride), _, _, *metadata),
        ) if len(size) == len(stride) <= _MAX_DIMENSIONS:
            # Metadata marks a lazy conjugation or negation: the values differ from stored values.
            if any(not isinstance(entry, Dict) or entry.entries for entry in metadata):
                raise WeightsFormatError("a lazily conjugated or negated tensor; save its clone()")
            size, stride = tuple(map(_index, size)), tuple(map(_index, stride))
            return Tensor(storage, _index(offset), size, stride)
        # Types that older versions do not support, such as 8-bit floats.
        case "torch._utils._rebuild_tensor_v3", (_, _, _, _, _, _, Global(dtype), *_):
            return Opaque(name=f"tensor of {dtype}")
    if name in _TENSOR_FACTORIES:
        raise WeightsFormatError(f"{name} with invalid arguments")
    # These functions create an object of the class in their first argument.
    is_factory = name.rpartition(".")[2] in ("_reconstructor", "_reconstruct")
    made = arguments[0] if is_factory and arguments else None
    return Opaque(name=made.name if isinstance(made, Global) else name)


def _expect(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise WeightsFormatError(f"found a {type(value).__name__}, expected {what}")
    return value


def _index(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise WeightsFormatError(
            "a size, stride, offset or count that is not an integer in [0, 2**63)"
        )
    return value


_HANDLERS: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"), _Machine._push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine._push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _Machine._push),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), _Machine._push),  # Python 2.
    "NONE": lambda machine, _: machine._push(None),
    "NEWTRUE": lambda machine, _: machine._push(True),
    "NEWFALSE": lambda machine, _: machine._push(False),
    "EMPTY_TUPLE": lambda machine, _: machine._push(()),
    "EMPTY_LIST": lambda machine, _: machine._push([]),
    "EMPTY_DICT": lambda machine, _: machine._push(Dict()),
    "EMPTY_SET": lambda machine, _: machine._push(Opaque(name="builtins.set")),
    "ADDITEMS": lambda machine, _: machine._extend(machine._pop_mark()),
    "FROZENSET": lambda machine, _: machine._new(
        [Global("builtins.frozenset"), machine._pop_mark()]
    ),
    "MARK": _Machine._mark,
    "POP": lambda machine, _: machine._stack.pop(),
    "POP_MARK": lambda machine, _: machine._pop_mark(),
    "DUP": lambda machine, _: machine._push(machine._stack[-1]),
    "TUPLE": lambda machine, _: machine._push(tuple(machine._pop_mark())),
    "TUPLE1": lambda machine, _: machine._push(tuple(machine._pop_many(1))),
    "TUPLE2": lambda machine, _: machine._push(tuple(machine._pop_many(2))),
    "TUPLE3": lambda machine, _: machine._push(tuple(machine._pop_many(3))),
    "APPEND": lambda machine, _: machine._extend(machine._pop_many(1)),
    "APPENDS": lambda machine, _: machine._extend(machine._pop_mark()),
    "SETITEM": lambda machine, _: machine._set_items(machine._pop_many(2)),
    "SETITEMS": lambda machine, _: machine._set_items(machine._pop_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine._memoize),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, i: machine._push(machine._memo[i])),
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "BINPERSID": _Machine._persistent,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
    "NEWOBJ": lambda machine, _: machine._new(machine._pop_many(2)),
    "NEWOBJ_EX": lambda machine, _: machine._new(machine._pop_many(3)),
    "OBJ": lambda machine, _: machine._new(machine._pop_mark()),
    "INST": lambda machine, names: machine._new(
        [_make_global(present_name(*names)), machine._pop_mark()]
    ),
    **dict.fromkeys(
        ("EXT1", "EXT2", "EXT4"), lambda _, code: _make_global(f"copyreg.extension {code}")
    ),
}

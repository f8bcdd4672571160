"""Reads the tensors of a PyTorch checkpoint without torch and without running its pickle.

A checkpoint is a pickle, that is, a program. Unpickling imports and calls whatever it names; here
its opcodes are interpreted instead, and a name is never more than a name: there is no import and
no call of anything found in the file. Both layouts that `torch.save` writes are read:

    zip      `<name>/data.pkl` and one stored member `<name>/data/<key>` a storage
    legacy   pickles of magic number, protocol, system, object and storage keys, one after the
             other; then for each key an int64 element count and the elements

A storage is a flat run of elements; a tensor is a window (offset, size, stride) on one.
"""

import dataclasses
import io
import math
import os
import pathlib
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
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
}
# A few bytes of pickle can describe a structure without end. These bounds leave room for
# checkpoints of about 50 000 tensors and keep time and memory small for any file.
_MAX_OPCODES = 2_000_000
_MAX_ENTRIES = 200_000
_MAX_NAME_LENGTH = 1_000
_MAX_DIMENSIONS = 64  # NumPy's own limit
_MAX_REPEATED_BYTES = 2**26  # of a tensor that repeats elements (stride 0) beyond the file's size
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


class WeightsFormatError(ValueError):
    """The file is damaged, truncated or no PyTorch checkpoint."""


class UnsafePickleError(ValueError):
    """The file asks to call something that no state dict needs; it was not called."""


def read_torch_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads every tensor of a PyTorch checkpoint (.pth/.pt) by its dotted name.

    Neither torch nor the file's pickle is run. Nested dicts give names such as
    `state_dict.conv.weight`; values that are neither tensors nor dicts are left out. Tensors that
    share a storage share memory, and a tensor saved with permuted axes is a strided view.

        arrays = read_torch_arrays("efficientnet-lite0.pth")
        arrays["_fc.weight"].shape  # (1000, 1280)

    Args:
        path: file written by `torch.save`, in the zip or the legacy layout.

    Returns:
        Dotted name -> array, in the order of the file; bfloat16 is `ml_dtypes.bfloat16`.

    Raises:
        WeightsFormatError: the file is damaged, truncated or no PyTorch checkpoint of tensors.
        UnsafePickleError: the file asks for a callable that no state dict needs, named in the
            message.
        OSError: the file cannot be read.
    """
    data = pathlib.Path(path).read_bytes()
    try:
        root, storages = _read_zip(data) if data.startswith(b"PK") else _read_legacy(data)
        if not isinstance(root, _Dict):
            raise WeightsFormatError("holds no dict of tensors; expected a saved state dict")
        arrays: dict[str, np.ndarray] = {}
        for name, tensor in _named_tensors(root):
            if name in arrays:
                raise WeightsFormatError(f"two tensors are named {name!r}; expected one")
            arrays[name] = _array(name, tensor, storages, max(len(data), _MAX_REPEATED_BYTES))
        return arrays
    except (WeightsFormatError, UnsafePickleError) as error:
        raise type(error)(f"{os.fspath(path)}: {error}") from error


@dataclasses.dataclass(frozen=True)
class _Global:
    """The name of something in a Python module, never the thing itself."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    """What the pickle says about a storage; its bytes lie elsewhere in the file."""

    key: str
    dtype: np.dtype
    count: int

    @property
    def num_bytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A window on a storage; offset and stride count elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclasses.dataclass(eq=False)
class _Dict:
    """The entries of a dict in file order, unhashed: hashing what a file chose can be made slow."""

    ordered: bool = False
    entries: list[tuple[Any, Any]] = dataclasses.field(default_factory=list)


def _read_legacy(data: bytes) -> tuple[Any, dict[str, np.ndarray]]:
    stream = io.BytesIO(data)
    if not data.startswith(b"\x80") or _Machine(stream).run() != _MAGIC:
        raise WeightsFormatError("neither layout of torch.save; expected a .pth or .pt checkpoint")
    if _Machine(stream).run() != _PROTOCOL:
        raise WeightsFormatError(f"unknown protocol of the legacy layout; expected {_PROTOCOL}")
    _Machine(stream).run()  # sizes of C types: elements have been little-endian in all versions
    machine = _Machine(stream)
    root = machine.run()
    keys = _expect(_Machine(stream).run(), list, "a list of storage keys")
    start = stream.tell()
    storages = {}
    for key in keys:
        storage = machine.storages.get(_expect(key, str, "a string as storage key"))
        if storage is None or key in storages:
            raise WeightsFormatError(f"storage key {key[:40]!r} is listed twice or never used")
        count = int.from_bytes(data[start : start + 8], "little", signed=True)
        start, stop = start + 8, start + 8 + storage.num_bytes
        if count != storage.count or stop > len(data):
            raise WeightsFormatError(
                f"storage {key[:40]!r} is announced with {storage.count} elements, has a count of "
                f"{count}, and {max(0, len(data) - start)} bytes are left; the file is truncated "
                "or damaged"
            )
        storages[key] = np.array(memoryview(data)[start:stop], np.uint8)
        start = stop
    return root, storages


def _read_zip(data: bytes) -> tuple[Any, dict[str, np.ndarray]]:
    members = _zip_members(data)
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise WeightsFormatError("a zip file without one `*/data.pkl`; expected torch.save's")
    folder = pickles[0].removesuffix("data.pkl")
    big_endian = members.get(f"{folder}byteorder", b"little") == b"big"
    machine = _Machine(io.BytesIO(members[pickles[0]]))
    root = machine.run()
    storages = {}
    for key, storage in machine.storages.items():
        raw = members.pop(f"{folder}data/{key}", None)
        if raw is None or len(raw) != storage.num_bytes:
            raise WeightsFormatError(
                f"storage {key[:40]!r} has {'no' if raw is None else len(raw)} bytes; "
                f"expected {storage.num_bytes}"
            )
        storages[key] = np.array(memoryview(raw), np.uint8)
        if big_endian:
            word = storage.dtype.itemsize // (2 if storage.dtype.kind == "c" else 1)
            storages[key].view(f"u{word}").byteswap(inplace=True)
    return root, storages


def _zip_members(data: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if any(
                info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size
                for info in infos
            ):
                raise WeightsFormatError("compressed members; torch.save stores them as they are")
            # Members may overlap in a forged directory: together they must fit the file.
            if sum(info.file_size for info in infos) > len(data):
                raise WeightsFormatError(
                    "members are announced larger than the file; it is damaged"
                )
            if len({info.filename for info in infos}) != len(infos):
                raise WeightsFormatError("two members of one name; expected each once")
            return {info.filename: archive.read(info) for info in infos}
    except WeightsFormatError:
        raise
    except Exception as error:  # zipfile answers damage with a dozen types, some undocumented
        raise WeightsFormatError(f"damaged zip file ({error}); expected torch.save's") from error


def _named_tensors(root: _Dict) -> Iterator[tuple[str, _Tensor]]:
    """Walks nested dicts in file order; without recursion, since the file chooses the depth."""
    visited = 0
    walks = [("", iter(root.entries))]
    while walks:
        prefix, entries = walks[-1]
        for key, value in entries:
            visited += 1
            if not isinstance(value, _Tensor | _Dict):
                continue
            name = f"{prefix}{_name_part(key)}"
            if visited > _MAX_ENTRIES or len(name) > _MAX_NAME_LENGTH:
                raise WeightsFormatError(
                    f"more than {_MAX_ENTRIES} entries, or a name over {_MAX_NAME_LENGTH} long; "
                    "expected a state dict, not dicts that hold one another again and again"
                )
            if isinstance(value, _Dict):
                walks.append((f"{name}.", iter(value.entries)))
                break
            yield name, value
        else:
            walks.pop()


def _name_part(key: Any) -> str:
    if type(key) is str or (type(key) is int and abs(key) < 2**63):
        return str(key)
    raise WeightsFormatError(
        f"a dict key of type {type(key).__name__} leads to tensors; expected str or int"
    )


def _array(
    name: str, tensor: _Tensor, storages: dict[str, np.ndarray], max_bytes: int
) -> np.ndarray:
    storage, size = tensor.storage, tensor.size
    if storage.key not in storages:
        raise WeightsFormatError(f"the storage of {name!r} is missing from the file")
    # An axis of one element never moves, so its stride may be anything, even one NumPy rejects.
    strides = tuple(0 if n == 1 else s for n, s in zip(size, tensor.stride, strict=True))
    last = sum((n - 1) * s for n, s in zip(size, strides, strict=True))
    if tensor.offset + (0 if 0 in size else last + 1) > storage.count:
        raise WeightsFormatError(
            f"offset {tensor.offset}, size {size}, stride {tensor.stride} of {name!r} reach beyond "
            f"the {storage.count} elements of its storage"
        )
    itemsize = storage.dtype.itemsize
    if math.prod(max(1, n) for n in size) * itemsize > max_bytes:
        raise WeightsFormatError(f"size {size} of {name!r} is far beyond the bytes of the file")
    if 0 in size:
        return np.empty(size, storage.dtype)
    return np.ndarray(
        size,
        storage.dtype,
        buffer=storages[storage.key],
        offset=tensor.offset * itemsize,
        strides=tuple(s * itemsize for s in strides),
    )


class _Machine:
    """The part of the pickle machine that state dicts need; every value it makes is inert."""

    def __init__(self, stream: io.BytesIO) -> None:
        self.storages: dict[str, _Storage] = {}
        self._stream = stream
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []  # stacks set aside by MARK
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Interprets one pickle, up to and with its STOP, and returns what it builds."""
        try:
            for _ in range(_MAX_OPCODES):
                # Not pickletools.genops: it decodes the arguments of opcodes we refuse, too.
                opcode = _OPCODES.get(self._stream.read(1))
                if opcode is None:
                    raise WeightsFormatError("the pickle ends early or is none; expected an opcode")
                name = opcode.name
                if name == "STOP":
                    return self._stack.pop()
                if name not in _HANDLERS:
                    raise WeightsFormatError(f"pickle opcode {name}, which no state dict needs")
                argument: Any = None
                if name in ("GLOBAL", "INST"):
                    argument = _read_name(self._stream)
                elif opcode.arg:
                    argument = opcode.arg.reader(self._stream)
                _HANDLERS[name](self, argument)
        except (WeightsFormatError, UnsafePickleError):
            raise
        except (ValueError, LookupError) as error:  # a reader, an empty stack, an unset memo
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
        _expect(self._stack[-1], list, "a list to append to").extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = _expect(self._stack[-1], _Dict, "a dict to set items of")
        target.entries.extend(zip(items[::2], items[1::2], strict=True))

    def _stack_global(self, _: Any) -> None:
        parts = [_expect(part, str, "a string as name") for part in self._pop_many(2)]
        self._push(_Global(".".join(parts)))

    def _persistent(self, _: Any) -> None:
        match self._stack.pop():
            case ("storage", _Global(type_name), str(key), str(), count, *view) if not any(view):
                pass
            case ("module", module, *_):
                _refuse(module)
            case _:
                raise WeightsFormatError("a persistent id of another kind than a torch storage")
        if type_name not in _STORAGES:
            raise WeightsFormatError(f"{type_name[:200]!r}; expected one of {', '.join(_STORAGES)}")
        storage = _Storage(key, _STORAGES[type_name], _index(count))
        if self.storages.setdefault(key, storage) != storage:
            raise WeightsFormatError(f"storage {key[:40]!r} is described in two ways; expected one")
        self._push(storage)

    def _reduce(self, _: Any) -> None:
        function, arguments = self._pop_many(2)
        if not (isinstance(function, _Global) and function.name in _CALLABLE):
            _refuse(function)
        self._push(_call(function.name, _expect(arguments, tuple, "a tuple of arguments")))

    def _build(self, _: Any) -> None:
        target = self._pop_many(2)[0]
        if not (isinstance(target, _Dict) and target.ordered):
            _refuse(target)
        self._push(target)  # the state, `_metadata` of a module's state dict, is dropped


def _read_name(stream: io.BytesIO) -> str:
    """Module and name, a line each; the reader of pickletools would interpret backslashes."""
    lines = [stream.readline(), stream.readline()]
    if not lines[1].endswith(b"\n"):
        raise ValueError("a name without end")
    return ".".join(line[:-1].decode() for line in lines)


_CALLABLE = (
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
)


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    """What the real callable would give, as an inert value."""
    match name, arguments:
        case "collections.OrderedDict", ():
            return _Dict(ordered=True)
        case "torch.Size", (tuple(size),):
            return size
        case "torch._utils._rebuild_parameter", (_Tensor() as tensor, _, _):
            return tensor
        case (
            "torch._utils._rebuild_tensor_v2",
            (_Storage() as storage, offset, tuple(size), tuple(stride), _, _, *metadata),
        ) if len(size) == len(stride) <= _MAX_DIMENSIONS:
            # Metadata marks a lazy conjugation or negation, so its values are not the stored ones.
            if any(not isinstance(entry, _Dict) or entry.entries for entry in metadata):
                raise WeightsFormatError("a lazily conjugated or negated tensor; save its clone()")
            size, stride = tuple(map(_index, size)), tuple(map(_index, stride))
            return _Tensor(storage, _index(offset), size, stride)
    raise WeightsFormatError(f"{name} with arguments it does not take")


def _refuse(target: Any) -> NoReturn:
    if not isinstance(target, _Global):
        raise WeightsFormatError("the pickle calls or changes a value that has no name")
    raise UnsafePickleError(
        f"the file asks to call {target.name[:200]!r}, which no state dict needs; nothing was run. "
        "If you trust the file, load it with torch and save `model.state_dict()` alone"
    )


def _expect(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise WeightsFormatError(f"found a {type(value).__name__.strip('_')}, expected {what}")
    return value


def _index(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise WeightsFormatError("a size, stride, offset or count that is no integer in [0, 2**63)")
    return value


_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _Machine._push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine._push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES"), _Machine._push),
    "NONE": lambda machine, _: machine._push(None),
    "NEWTRUE": lambda machine, _: machine._push(True),
    "NEWFALSE": lambda machine, _: machine._push(False),
    "EMPTY_TUPLE": lambda machine, _: machine._push(()),
    "EMPTY_LIST": lambda machine, _: machine._push([]),
    "EMPTY_DICT": lambda machine, _: machine._push(_Dict()),
    "MARK": _Machine._mark,
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
    "GLOBAL": lambda machine, name: machine._push(_Global(name)),
    "STACK_GLOBAL": _Machine._stack_global,
    "BINPERSID": _Machine._persistent,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
    # These call without REDUCE. No state dict needs them, so they only name what is refused.
    "NEWOBJ": lambda machine, _: _refuse(machine._pop_many(2)[0]),
    "NEWOBJ_EX": lambda machine, _: _refuse(machine._pop_many(3)[0]),
    "OBJ": lambda machine, _: _refuse(machine._stack[0]),
    "INST": lambda machine, name: _refuse(_Global(name)),
    **dict.fromkeys(
        ("EXT1", "EXT2", "EXT4"), lambda _, code: _refuse(_Global(f"copyreg extension {code}"))
    ),
}

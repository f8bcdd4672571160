"""Damaged files of weights give arrays or a documented error, and have no other effect.

The process watches itself: a hook of the interpreter sees every import, call of code, process and
opened file; tracemalloc and the operating system see memory; an alarm ends a hang.
"""

import io
import os
import re
import resource
import signal
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save

from cfx_jax.weights.files import read_weights

# (number of a batch, its files) of each of five formats.
BATCHES = [(0, 60), *(pytest.param(batch, 500, marks=pytest.mark.slow) for batch in range(4))]
MAX_BYTES = 2**20  # of Python and NumPy for a file of about a thousand bytes
MAX_RESIDENT_BYTES = 2**26  # more than before, of the whole process
MAX_SECONDS = 30

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(4, 3, 2),
    "conv.bias": np.zeros(4, np.float32),
    "ids": np.arange(6, dtype=np.float32),
}


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def numbers(values):
    return b"(" + b"".join(b"K" + bytes([value]) for value in values) + b"t"


# Objects that training scripts save in addition to a network, and that are never constructed.
BESIDE = (
    text("args") + b"cargparse\nNamespace\n)\x81}" + text("out") + b"cpathlib\nPosixPath\n("
    + text("/") + text("runs") + b"tRsb" + text("seen") + b"c__builtin__\nset\n](K\x01K\x02e\x85R"
    + text("net") + b"cnet\nNet\n)\x81}" + text("_modules") + b"}" + text("a") + b"Nssb"
)  # fmt: skip


def state_dict(tail):
    """The pickle of torch for ARRAYS; `tail` is what the legacy layout adds to a storage."""
    code = b"\x80\x02ccollections\nOrderedDict\n)R("
    for index, (name, array) in enumerate(ARRAYS.items()):
        strides = [step // array.itemsize for step in array.strides]
        code += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        code += text("storage") + b"ctorch\nFloatStorage\n" + text(str(index)) + text("cpu")
        code += b"K" + bytes([array.size]) + tail + b"tQK\x00"
        code += numbers(array.shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)RtR"
    return code + BESIDE + b"u."


def legacy():
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    keys = b"\x80\x02](" + b"".join(text(str(index)) for index in range(len(ARRAYS))) + b"e."
    data = b"".join(struct.pack("<q", a.size) + a.tobytes() for a in ARRAYS.values())
    return magic + b"\x80\x02M\xe9\x03.\x80\x02}." + state_dict(b"N") + keys + data


def zipped(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)  # of no date
    return file.getvalue()


def torch_zip():
    data = {f"net/data/{i}": array.tobytes() for i, array in enumerate(ARRAYS.values())}
    return zipped({"net/data.pkl": state_dict(b""), "net/byteorder": b"little"} | data)


def npz(write):
    file = io.BytesIO()
    write(file, **ARRAYS)
    return file.getvalue()


FILES = {
    "legacy.pth": legacy(),
    "zip.pth": torch_zip(),
    "net.safetensors": save(ARRAYS, metadata={"card": "{}"}),
    "stored.npz": npz(np.savez),
    "deflated.npz": npz(np.savez_compressed),
}
EXTREMES = [0, 1, 2, 3, 5, 2**8 - 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63]
TOKENS = [
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"\x93R", b"}", b"(", b"R", b"Q", b"b", b"h\x00",
    b"BF16", b"F8_E4M3", b"I64", b"'|O'", b"'<f8'", b"|V2", b"True", b"null", b"[", b"{", b'"',
    b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"\x93NUMPY", bytes(16),
]  # fmt: skip


def flip(data, rng):
    index = int(rng.integers(len(data)))
    return data[:index] + bytes([data[index] ^ (1 << int(rng.integers(8)))]) + data[index + 1 :]


def truncate(data, rng):
    return data[: int(rng.integers(len(data)))]


def cut(data, rng):
    start = int(rng.integers(len(data)))
    return data[:start] + data[start + int(rng.integers(1, 32)) :]


def insert(data, rng):
    start = int(rng.integers(len(data)))
    patch = TOKENS[rng.integers(len(TOKENS))] if rng.integers(2) else rng.bytes(rng.integers(1, 9))
    return data[:start] + patch + data[start + len(patch) * int(rng.integers(2)) :]


def splice(data, rng):
    """Puts a piece of this or of another file somewhere."""
    donor = list(FILES.values())[rng.integers(len(FILES))] if rng.integers(2) else data
    first, start = int(rng.integers(len(donor))), int(rng.integers(len(data)))
    piece = donor[first : first + int(rng.integers(1, 200))]
    return data[:start] + piece + data[start + len(piece) * int(rng.integers(2)) :]


def binary_length(data, rng):
    """Overwrites what may be a length of 1 to 8 bytes by an extreme one."""
    size = int(rng.choice([1, 2, 4, 8]))
    start = int(rng.integers(len(data)))
    value = EXTREMES[rng.integers(len(EXTREMES))] % 256**size
    return data[:start] + value.to_bytes(size, "little") + data[start + size :]


def field_of_zip(data, rng):
    """Overwrites a field of a local or a central header, or of the end of the directory."""
    headers = [match.start() for match in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06)", data)]
    if not headers:
        return binary_length(data, rng)
    start = headers[rng.integers(len(headers))] + 4 + 2 * int(rng.integers(20))
    size = int(rng.choice([2, 4]))
    value = EXTREMES[rng.integers(len(EXTREMES))] % 256**size
    return data[:start] + value.to_bytes(size, "little") + data[start + size :]


def written_length(data, rng):
    """Replaces a number written in digits by an extreme one."""
    found = list(re.finditer(rb"\d+", data))
    if not found:
        return flip(data, rng)
    match = found[rng.integers(len(found))]
    value = str(EXTREMES[rng.integers(len(EXTREMES))]).encode()
    return data[: match.start()] + value + data[match.end() :]


ATTACKS = [flip, truncate, cut, insert, splice, binary_length, field_of_zip, written_length]


def attacked(data, rng):
    for _ in range(rng.integers(1, 4)):
        data = ATTACKS[rng.integers(len(ATTACKS))](data or b"\0", rng)
    return data


def mutated(name, rng):
    """A damaged file; half of the time one whose checksums and outer lengths are right."""
    data = FILES[name]
    if rng.integers(2) or name == "legacy.pth":
        return attacked(data, rng)
    if name == "net.safetensors":
        stop = 8 + int.from_bytes(data[:8], "little")
        header = attacked(data[8:stop], rng)
        return struct.pack("<Q", len(header)) + header + data[stop:]
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    victim = list(members)[rng.integers(len(members))]
    if name == "zip.pth" and rng.integers(2):
        victim = "net/data.pkl"
    members[victim] = attacked(members[victim], rng)
    deflate = name == "deflated.npz"
    return zipped(members, zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED)


FORBIDDEN = {
    "import", "compile", "exec", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn",
    "os.spawn", "subprocess.Popen", "pickle.find_class", "marshal.loads", "marshal.load",
    "ctypes.dlopen", "socket.connect", "os.remove", "os.rename", "os.mkdir", "os.link",
    "os.symlink", "code.__new__", "function.__new__", "builtins.input",
}  # fmt: skip
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """Sees what the interpreter does while it is on; a hook cannot be taken away again."""

    def __init__(self):
        self.seen = None
        sys.addaudithook(self.hook)

    def hook(self, event, arguments):
        # NumPy parses the header of an array into a literal; to run it would be an "exec".
        is_literal = event == "compile" and arguments[1] == "<unknown>"
        if self.seen is not None and (
            (event in FORBIDDEN and not is_literal) or (event == "open" and arguments[2] & WRITING)
        ):
            self.seen.append((event, arguments))


@pytest.fixture(scope="module")
def watch(tmp_path_factory):
    """The hook, after sound files have made every module they need known."""
    folder = tmp_path_factory.mktemp("sound")
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
        arrays = read_weights(folder / name).arrays
        assert arrays.keys() == ARRAYS.keys()
        for key, array in ARRAYS.items():
            np.testing.assert_array_equal(arrays[key], array)
    "".encode("cp437")  # names of zip members before Unicode
    return Watch()


def ring(signum, frame):
    pytest.fail(f"a file was not read within {MAX_SECONDS} s")


@pytest.fixture
def alarm():
    before = signal.signal(signal.SIGALRM, ring)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


def resident_bytes():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@pytest.mark.parametrize(("batch", "num_files"), BATCHES)
@pytest.mark.parametrize("name", FILES)
def test_read_weights_of_a_damaged_file_gives_arrays_or_an_error(
    name, batch, num_files, tmp_path, watch, alarm, traced
):
    rng = np.random.default_rng([batch, *name.encode()])
    path = tmp_path / name
    resident = resident_bytes()
    messages = []
    for index in range(num_files):
        data = mutated(name, rng)
        path.write_bytes(data)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        watch.seen = seen = []
        alarm(MAX_SECONDS)
        try:
            arrays = read_weights(path).arrays
        except (ValueError, OSError) as error:
            arrays = {}
            messages.append(str(error))
        finally:
            alarm(0)
            watch.seen = None
        peak = tracemalloc.get_traced_memory()[1] - before
        assert all(isinstance(array, np.ndarray) for array in arrays.values())
        assert (seen, peak < MAX_BYTES) == ([], True), f"file {index}: {data!r}"
    assert all(name in message for message in messages)
    assert len(messages) > num_files // 2
    assert resident_bytes() - resident < MAX_RESIDENT_BYTES

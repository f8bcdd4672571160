"""Random access to TFRecord files, without TensorFlow.

A file is a sequence of records. Each consists of its length (uint64, little-endian), a checksum of
the length (uint32, masked CRC-32C), its bytes, and a checksum of the bytes.
"""

import concurrent.futures
import dataclasses
import os
import struct
from collections.abc import Sequence

import numpy as np

_HEADER = struct.Struct("<QI")
_CHECKSUM_BYTES = 4
# Polynomial of CRC-32C with its bits reversed, and the constant of TFRecord's masked checksums.
_POLYNOMIAL, _MASK_DELTA = 0x82F63B78, 0xA282EAD8


class TFRecordError(ValueError):
    """A file that is truncated, damaged, or does not contain the expected records."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file and a range of its records: `take` records after the first `skip`.

    Attributes:
        path: path of the file, on a local disk.
        num_records: number of records that the file should contain.
        skip: number of records to skip, at least 0.
        take: number of records to take, at most `num_records - skip`.
    """

    path: str
    num_records: int
    skip: int
    take: int


class TFRecords:
    """Thread-safe access, by number, to the records of several files."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        """Finds the position of each record; reads only the headers.

        Args:
            shards: files, in the order in which their records are numbered.

        Raises:
            TFRecordError: a file is damaged; the message gives the file and the byte.
            OSError: a file cannot be read.
        """
        # Threads, because there is one read per record, and a network disk answers slowly.
        with concurrent.futures.ThreadPoolExecutor() as pool:
            spans = list(pool.map(_find_records, shards))
        self._paths = [shard.path for shard in shards]
        self._path_of = np.repeat(np.arange(len(shards)), [len(span) for span in spans])
        self._spans = np.concatenate([np.zeros((0, 2), np.int64), *spans])

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> bytes:
        """Reads a record.

        The checksum of the bytes is not verified: in Python this takes longer than decoding the
        image, and the decoder detects damage too.

        Raises:
            TFRecordError: the file has become shorter.
            OSError: the file cannot be read.
        """
        offset, length = map(int, self._spans[index])
        path = self._paths[self._path_of[index]]
        # Open the file each time: threads share no position, and a dataset may have more files than
        # a process may keep open.
        with open(path, "rb") as file:
            file.seek(offset)
            record = file.read(length)
        if len(record) != length:
            raise TFRecordError(f"{path}: cut off at byte {offset + len(record)} since it was read")
        return record


def _find_records(shard: Shard) -> np.ndarray:
    """Returns the offset and length of the bytes of each record taken, int64 `[take, 2]`."""
    spans, offset = [], 0
    with open(shard.path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while offset < size:
            file.seek(offset)
            header = file.read(_HEADER.size)
            end = size + 1
            if len(header) == _HEADER.size:
                length, checksum = _HEADER.unpack(header)
                if checksum != _masked_crc32c(header[:8]):
                    raise TFRecordError(f"{shard.path}: no record begins at byte {offset}")
                end = offset + _HEADER.size + length + _CHECKSUM_BYTES
            if end > size:
                raise TFRecordError(
                    f"{shard.path}: the record that begins at byte {offset} is cut off by the end "
                    f"of the file at byte {size}"
                )
            spans.append((offset + _HEADER.size, length))
            offset = end
    if len(spans) != shard.num_records:
        raise TFRecordError(
            f"{shard.path}: contains {len(spans)} records up to its end at byte {size}; expected "
            f"{shard.num_records}"
        )
    return np.array(spans, np.int64).reshape(-1, 2)[shard.skip : shard.skip + shard.take]


def _byte_remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (byte & 1) * _POLYNOMIAL
    return byte


_REMAINDERS = [_byte_remainder(byte) for byte in range(256)]


def _masked_crc32c(data: bytes) -> int:
    """Computes the masked CRC-32C of a few bytes; none of the dependencies provides it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _REMAINDERS[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF

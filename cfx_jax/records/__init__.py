"""A run's results on disk, on a local disk or in a bucket; see `store`."""

from cfx_jax.manifest import ManifestMismatchError, RecordsError
from cfx_jax.records.layout import Field, decode_ids, encode_ids
from cfx_jax.records.store import RecordReader, RecordWriter

__all__ = [
    "Field",
    "ManifestMismatchError",
    "RecordReader",
    "RecordWriter",
    "RecordsError",
    "decode_ids",
    "encode_ids",
]

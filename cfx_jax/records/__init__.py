"""A store of arrays in units: atomic, resumable, locked, on a local disk or in a bucket.

The package handles fields and units independently of their meaning; see `store`.
"""

from cfx_jax.records.arrays import STORE
from cfx_jax.records.costs import Cost, Costs
from cfx_jax.records.layout import COMPLETE, EXAMPLE, Field, decode_ids, encode_ids, find_id_problem
from cfx_jax.records.lock import is_locked
from cfx_jax.records.manifest import ManifestMismatchError, claim_folder
from cfx_jax.records.storage import RecordsError, Storage, local_folder
from cfx_jax.records.store import RecordReader, RecordWriter

__all__ = [
    "COMPLETE",
    "EXAMPLE",
    "STORE",
    "Cost",
    "Costs",
    "Field",
    "ManifestMismatchError",
    "RecordReader",
    "RecordWriter",
    "RecordsError",
    "Storage",
    "claim_folder",
    "decode_ids",
    "encode_ids",
    "find_id_problem",
    "is_locked",
    "local_folder",
]

"""Opens the arrays of a store on disk, and writes the Zarr group that contains them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tensorstore as ts

from cfx_jax.records.layout import COMPLETE, EXAMPLE, Field, Layout, encode_texts
from cfx_jax.records.storage import RecordsError, Storage, os_error

STORE = "records.zarr"
"""Name of the group in the folder of a run."""


def open_arrays(
    storage: Storage, layout: Layout, create: bool, missing_is_an_error: bool = False
) -> dict[str, Any]:
    """Opens the TensorStore of each field, and of `complete`, concurrently."""
    opening = {
        field.name: ts.open(
            {
                "driver": "zarr3",
                "kvstore": storage.kvstore(f"{STORE}/{field.name}"),
                "metadata": layout.array_metadata(field),
                # Every written chunk is stored, so a missing chunk is a lost chunk.
                "store_data_equal_to_fill_value": field.name != COMPLETE,
                "fill_missing_data_reads": not missing_is_an_error,
            },
            open=True,
            create=create,
        )
        for field in (*layout.fields, Field(COMPLETE, "uint8"))
    }
    arrays = {}
    for name, future in opening.items():
        try:
            arrays[name] = future.result()
        except ValueError as error:
            failure = os_error(error, f"cannot open {storage.place(STORE)}")
            if failure.errno:
                raise failure from error
            raise RecordsError(
                f"{storage}: the array {name!r} of {STORE} is missing or damaged; resume the "
                f"run if it has only just started, else delete the folder ({error})"
            ) from error
    return arrays


def write_group(
    storage: Storage, layout: Layout, ids: Sequence[str], attributes: Mapping[str, Any]
) -> None:
    """Writes the Zarr group of the arrays and their text descriptions, unless it exists.

    Args:
        storage: the run's folder, which contains the arrays.
        layout: layout of the store.
        ids: ids of all examples, the coordinate of the example axis; an empty sequence omits it.
        attributes: attributes of the Zarr group.
    """
    if storage.read(f"{STORE}/zarr.json") is not None:
        return
    metadata = {}
    described = {"long_name": "1 once it is written"}
    for field in (*layout.fields, Field(COMPLETE, "uint8", attributes=described)):
        place = f"{STORE}/{field.name}/zarr.json"
        content = json.loads(storage.read(place) or b"{}")
        if field.attributes:
            # Add them after creation, because TensorStore would refuse an array without attributes.
            content["attributes"] = dict(field.attributes)
            storage.write(place, json.dumps(content).encode())
        metadata[field.name] = content
    if ids:
        chunk, metadata[EXAMPLE] = encode_texts(ids)
        storage.write(f"{STORE}/{EXAMPLE}/c/0", chunk)
        storage.write(f"{STORE}/{EXAMPLE}/zarr.json", json.dumps(metadata[EXAMPLE]).encode())
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": dict(attributes),
        # xarray requires the metadata of the arrays here.
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": metadata,
        },
    }
    storage.write(f"{STORE}/zarr.json", json.dumps(group, indent=2).encode())

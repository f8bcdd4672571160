"""The arrays of a store on disk: how they are opened, and the Zarr group that holds them."""

import json
from typing import Any

import tensorstore as ts

from cfx_jax.records.layout import COMPLETE, Field, Layout
from cfx_jax.records.manifest import RecordsError
from cfx_jax.records.storage import Storage, os_error

STORE = "records.zarr"
"""Name of the group in the folder of a run."""


def open_arrays(
    storage: Storage, layout: Layout, create: bool, missing_is_an_error: bool = False
) -> dict[str, Any]:
    """Opens one TensorStore a field, and `complete`, all at once."""
    opening = {
        field.name: ts.open(
            {
                "driver": "zarr3",
                "kvstore": storage.kvstore(f"{STORE}/{field.name}"),
                "metadata": layout.array_metadata(field),
                # A chunk that is not there is then one that was lost.
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


def write_group(storage: Storage, layout: Layout) -> None:
    """Makes the arrays a Zarr group; with the arrays' metadata, for which xarray asks."""
    if storage.read(f"{STORE}/zarr.json") is not None:
        return
    names = [field.name for field in layout.fields] + [COMPLETE]
    metadata = {name: storage.read(f"{STORE}/{name}/zarr.json") or b"" for name in names}
    consolidated = {
        "kind": "inline",
        "must_understand": False,
        "metadata": {name: json.loads(content) for name, content in metadata.items()},
    }
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {},
        "consolidated_metadata": consolidated,
    }
    storage.write(f"{STORE}/zarr.json", json.dumps(group, indent=2).encode())

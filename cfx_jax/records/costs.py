"""The cost of each unit of a run: an array next to the records.

Records are equal bit for bit however often a run is stopped and wherever it is resumed. Times are
not, so they are stored separately in `costs.zarr`: float32 `[num_units, 3]`, one row per unit, NaN
if the time could not be written.
"""

import contextlib
from typing import Any, NamedTuple

import numpy as np
import tensorstore as ts

from cfx_jax.records.storage import Storage

_STORE = "costs.zarr"


class Cost(NamedTuple):
    """The cost of a unit.

    Attributes:
        seconds: wall-clock seconds since the end of the previous unit on the same host.
        devices: number of devices of the host that computed it.
        processes: number of processes of the run; the others compute other units meanwhile.
    """

    seconds: float
    devices: int
    processes: int


class Costs:
    """Writer and reader of the cost of units; a cost that cannot be written or read is NaN.

    Example:
        >>> import tempfile
        >>> costs = Costs(Storage(tempfile.mkdtemp()), num_units=2)
        >>> costs.write(1, Cost(seconds=2.5, devices=8, processes=1))
        >>> costs.read().tolist()
        [[nan, nan, nan], [2.5, 8.0, 1.0]]
    """

    def __init__(self, storage: Storage, num_units: int) -> None:
        """Prepares the specification; nothing is opened or created yet."""
        self._spec = {
            "driver": "zarr3",
            "kvstore": storage.kvstore(_STORE),
            "metadata": {
                "shape": [num_units, len(Cost._fields)],
                # Each host writes its own units.
                "chunk_grid": {
                    "name": "regular",
                    "configuration": {"chunk_shape": [1, len(Cost._fields)]},
                },
                "data_type": "float32",
                "fill_value": "NaN",
                "attributes": {"columns": [*Cost._fields]},
                "dimension_names": ["unit", "column"],
            },
        }
        self._shape = (num_units, len(Cost._fields))
        self._array: Any = None

    def write(self, unit: int, cost: Cost) -> None:
        """Writes the cost of a unit; disk errors are ignored."""
        with contextlib.suppress(ValueError):
            if self._array is None:
                self._array = ts.open(self._spec, open=True, create=True).result()
            self._array[unit].write(np.asarray(cost, np.float32)).result()

    def read(self) -> np.ndarray:
        """Returns the cost of each unit, float32 `[num_units, 3]`; NaN if it is unknown."""
        try:
            return ts.open(self._spec, open=True).result().read().result()
        except ValueError:
            return np.full(self._shape, np.nan, np.float32)

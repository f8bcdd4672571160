"""The cost of each unit of a run: an array next to the records.

Records are equal bit for bit however often a run is stopped and wherever it is resumed;
times are not, so they lie in `costs.zarr`: float32 `[num_units, 3]`, a row a unit, NaN where the
time could not be written.
"""

import contextlib
from typing import Any, NamedTuple

import numpy as np
import tensorstore as ts

from cfx_jax.records.storage import Storage

_STORE = "costs.zarr"


class Cost(NamedTuple):
    """What a unit has cost.

    Attributes:
        seconds: by the clock, from the end of the unit before it on that host.
        devices: number of devices of the host that computed it.
        processes: number of processes of the run; the others compute other units meanwhile.
    """

    seconds: float
    devices: int
    processes: int


class Costs:
    """Writes and reads what units have cost; what cannot be written or read is not known.

    Example:
        >>> import tempfile
        >>> costs = Costs(Storage(tempfile.mkdtemp()), num_units=2)
        >>> costs.write(1, Cost(seconds=2.5, devices=8, processes=1))
        >>> costs.read().tolist()
        [[nan, nan, nan], [2.5, 8.0, 1.0]]
    """

    def __init__(self, storage: Storage, num_units: int) -> None:
        """Nothing is opened or made yet."""
        self._spec = {
            "driver": "zarr3",
            "kvstore": storage.kvstore(_STORE),
            "metadata": {
                "shape": [num_units, len(Cost._fields)],
                # Hosts write units of their own.
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
        """Writes the cost of a unit; a disk that is full or gone stops nothing here."""
        with contextlib.suppress(ValueError):
            if self._array is None:
                self._array = ts.open(self._spec, open=True, create=True).result()
            self._array[unit].write(np.asarray(cost, np.float32)).result()

    def read(self) -> np.ndarray:
        """Returns the cost of each unit, float32 `[num_units, 3]`, NaN where it is not known."""
        try:
            return ts.open(self._spec, open=True).result().read().result()
        except ValueError:
            return np.full(self._shape, np.nan, np.float32)

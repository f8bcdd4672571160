"""The cost of units: stored next to the records, by several hosts; its errors stop no run."""

import numpy as np
import zarr

from cfx_jax.records import Cost, Costs, Storage


def test_costs_of_each_host_are_separate_rows(tmp_path):
    storage = Storage(tmp_path)
    hosts = [Costs(storage, 4), Costs(storage, 4)]
    for unit in (3, 0):
        hosts[unit % 2].write(unit, Cost(1.5 + unit, 8, 2))
    hosts[1].write(3, Cost(7.0, 4, 1))  # Computed anew.
    expected = [[1.5, 8, 2], [np.nan] * 3, [np.nan] * 3, [7, 4, 1]]
    for costs in (*hosts, Costs(storage, 4)):
        np.testing.assert_array_equal(costs.read(), expected)
    assert zarr.open_array(tmp_path / "costs.zarr", mode="r").attrs["columns"] == [*Cost._fields]


def test_costs_missing_or_damaged_are_nan(tmp_path):
    costs = Costs(Storage(tmp_path), 2)
    assert np.isnan(costs.read()).all()
    assert not list(tmp_path.iterdir()), "to read makes nothing"
    costs.write(0, Cost(1.0, 1, 1))
    [chunk] = (tmp_path / "costs.zarr" / "c").rglob("0/0")
    chunk.write_bytes(b"")
    assert np.isnan(Costs(Storage(tmp_path), 2).read()).all()


def test_costs_that_cannot_be_written_do_not_stop_a_run(tmp_path):
    (tmp_path / "costs.zarr").write_text("in the way")
    costs = Costs(Storage(tmp_path), 1)
    costs.write(0, Cost(1.0, 1, 1))
    assert np.isnan(costs.read()).all()

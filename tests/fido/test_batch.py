"""Batches of one size: the results do not depend on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax.fido.batch import map_batches


def double(rows):
    return {
        "doubled": 2 * rows["number"],
        "rows": jnp.full(len(rows["number"]), len(rows["number"])),
    }


@pytest.mark.parametrize(
    ("batch_size", "rows", "calls"),
    [(1, 1, [1, 2, 3, 4, 5]), (2, 2, [2, 4, 5]), (3, 3, [3, 5]), (4, 3, [3, 5]), (9, 5, [5])],
)
def test_map_batches_divides_evenly_and_drops_what_fills_the_last(batch_size, rows, calls):
    progress = []
    number = jnp.arange(10).reshape(5, 2)
    result = map_batches(
        double, {"number": number}, batch_size, lambda *counts: progress.append(counts)
    )
    np.testing.assert_array_equal(result["doubled"], 2 * number)
    assert set(result["rows"].tolist()) == {rows}
    assert progress == [(done, 5) for done in calls]


def test_map_batches_of_traced_rows_are_one():
    traced = jax.jit(lambda number: map_batches(double, {"number": number}, 2))
    assert traced(jnp.arange(5))["rows"].tolist() == [5] * 5


def test_map_batches_of_a_sharded_array_count_per_device():
    mesh = jax.make_mesh((8,), ("images",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("images"))
    number = jax.device_put(jnp.arange(32), sharding)
    assert set(map_batches(double, {"number": number})["rows"].tolist()) == {32}
    assert set(map_batches(double, {"number": jnp.arange(32)})["rows"].tolist()) == {4}


def test_explain_batch_size_changes_no_mask(random_classifier, fill_half, images):
    options = {"mode": "fast", "mask_size": 8, "num_steps": 10}
    arguments = (0, random_classifier, fill_half, images)
    counts = []
    whole = cfx_jax.explain_both(*arguments, batch_size=10, **options)
    parts = cfx_jax.explain_both(
        *arguments, batch_size=3, progress=lambda *count: counts.append(count), **options
    )
    assert counts == [(3, 10), (6, 10), (9, 10), (10, 10)]
    for objective, e in whole.items():
        for found, expected in zip(
            jax.tree.leaves(parts[objective]), jax.tree.leaves(e), strict=True
        ):
            np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, "4", True])
def test_explain_refuses_a_batch_size_that_is_no_number(
    batch_size, random_classifier, fill_half, images
):
    with pytest.raises(ValueError, match="expected a whole number of at least 1"):
        cfx_jax.explain(0, random_classifier, fill_half, images, batch_size=batch_size)

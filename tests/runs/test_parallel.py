"""Batches over devices: padding, independent rows, and one program for all batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from cfx_jax.fido.objective import make_problem
from cfx_jax.fido.optimisation import advance, init
from cfx_jax.fido.question import Question
from cfx_jax.fido.settings import get_settings
from cfx_jax.runs.parallel import map_over_devices, replicate, shard, slices, unshard

SETTINGS = get_settings("paper", mask_size=8, num_steps=40, num_samples=2, learning_rate=0.2)
ROWS_PER_DEVICE = {1: 5, 2: 3, 8: 1}  # five images with 0, 1 and 3 rows of padding
traced = []  # one entry each time JAX traces `learn`


def learn(problem, classifier, generator):
    """A whole optimisation of one image; returns keep_prob `[8, 8]`."""
    traced.append(problem.image.shape)
    state = advance(init(SETTINGS), problem, classifier, generator, settings=SETTINGS, num_steps=40)
    return jax.nn.sigmoid(state.cells)


@functools.cache  # Compiling takes nearly all of the time of this module.
def program(num_devices, mapper=map_over_devices):
    return mapper(learn, jax.local_devices()[:num_devices], num_mapped=1, num_shared=2)


@pytest.fixture
def problems(images):
    keys = jax.random.split(jax.random.key(1), 5)
    return jax.vmap(functools.partial(make_problem, objective="sdr"))(
        keys, images, Question(jnp.arange(5))
    )


@pytest.fixture
def models(random_classifier, fill_half):
    return random_classifier, fill_half


def run(problems, models, num_devices):
    """Optimises problems on some devices; returns keep_prob `[n, 8, 8]`."""
    batch = shard(problems, num_devices, ROWS_PER_DEVICE[num_devices])
    result = program(num_devices)(batch, *on_devices(models, num_devices))
    assert len(result.sharding.device_set) == num_devices
    return unshard(result, len(problems.image))


def on_devices(models, num_devices):
    return replicate(models, jax.local_devices()[:num_devices])


def rows(problems, index):
    return jax.tree.map(lambda x: x[np.asarray(index)], problems)


@pytest.mark.parametrize(
    ("num_devices", "rows_per_device", "n"),
    [(1, 1, 1), (1, 4, 3), (2, 3, 6), (2, 3, 5), (2, 3, 2), (8, 1, 8), (8, 2, 9), (8, 2, 1)],
)
def test_unshard_undoes_shard_and_padding_repeats_the_last_row(num_devices, rows_per_device, n):
    batch = {
        "image": np.random.default_rng(0).normal(size=(n, 4, 3)).astype(np.float32),
        "nested": (np.arange(n, dtype=np.int32), jnp.arange(n) % 2 == 0),
    }
    sharded = shard(batch, num_devices, rows_per_device)
    for leaf, original in zip(jax.tree.leaves(sharded), jax.tree.leaves(batch), strict=True):
        assert leaf.shape == (num_devices, rows_per_device, *original.shape[1:])
        flat = np.asarray(leaf).reshape(-1, *original.shape[1:])
        np.testing.assert_array_equal(flat[n:], np.repeat(original[-1:], len(flat) - n, axis=0))
    restored = unshard(sharded, n)
    assert jax.tree.structure(restored) == jax.tree.structure(batch)
    for leaf, original in zip(jax.tree.leaves(restored), jax.tree.leaves(batch), strict=True):
        assert isinstance(leaf, np.ndarray)
        assert leaf.dtype == original.dtype
        np.testing.assert_array_equal(leaf, original)


def test_slices_cover_the_rows_in_order():
    batch = {"a": np.arange(7), "b": np.arange(14).reshape(7, 2)}
    parts = list(slices(batch, 3))
    assert [len(part["a"]) for part in parts] == [3, 3, 1]
    for name, rows in batch.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), rows)
    assert not list(slices({"a": np.zeros((0, 2))}, 3))


@pytest.mark.parametrize("n", [0, 7])
def test_shard_refuses_a_batch_that_does_not_fit(n):
    with pytest.raises(ValueError, match=f"a batch of {n} rows does not fit 6"):
        shard(np.zeros((n, 4)), 2, 3)


@pytest.mark.parametrize("num_devices", ROWS_PER_DEVICE)
def test_on_devices_does_not_depend_on_devices_order_or_batch_size(num_devices, problems, models):
    """Eight devices take one row each, so they show that a batch of one equals a row of five."""
    expected = run(problems, models, 1)
    assert np.ptp(expected) > 0.5, "something was learnt"
    assert np.abs(expected[0] - expected[1]).max() > 0.1, "the images differ"
    for index in ([0, 1, 2, 3, 4], [3, 0, 4, 2, 1], [2]):
        found = run(rows(problems, index), models, num_devices)
        np.testing.assert_allclose(found, expected[index], atol=1e-3)


@pytest.mark.parametrize("value", [0.25, np.nan])
def test_on_devices_rows_do_not_depend_on_others_or_padding(value, problems, models):
    expected = run(problems, models, 2)
    unchanged = np.asarray([True, False, True, True, True, False])  # the last one is padding
    batch = shard(problems, 2, 3)
    image = jnp.where(unchanged.reshape(2, 3, 1, 1, 1), batch.image, value)
    found = unshard(program(2)(batch._replace(image=image), *on_devices(models, 2)), 6)
    np.testing.assert_array_equal(found[unchanged], expected[unchanged[:5]])
    assert np.abs(found[1] - expected[1]).max() > 0.1


def test_on_devices_reuses_its_program_for_other_parameters(problems, models):
    classifier, generator = models
    expected = run(problems, models, 2)
    num_traces = len(traced)
    other = classifier.replace(params=jax.tree.map(lambda x: 2 * x, classifier.params))
    assert np.abs(run(problems, (other, generator), 2) - expected).max() > 0.1
    run(rows(problems, [4, 2]), models, 2)
    assert len(traced) == num_traces


def map_by_shard_map(function, devices, *, num_mapped, num_shared):
    """`map_over_devices` without pmap: its replacement when JAX removes pmap."""
    function = jax.vmap(jax.vmap(function, in_axes=(0,) * num_mapped + (None,) * num_shared))
    rows = PartitionSpec("device")
    mapped = jax.shard_map(
        function,
        mesh=Mesh(np.asarray(devices), ("device",)),
        in_specs=(rows,) * (num_mapped + num_shared),
        out_specs=rows,
        check_vma=False,  # The first state of a scan does not depend on the image, the next do.
    )
    return jax.jit(mapped)


def test_on_devices_shard_map_equals_pmap(problems, models):
    batch = shard(problems, 2, 3)
    models = on_devices(models, 2)
    found = program(2, map_by_shard_map)(batch, *models)
    np.testing.assert_allclose(found, program(2)(batch, *models), atol=1e-5)

"""The batch size: known answers for a given memory use, and the memory of real programs."""

import jax
import numpy as np
import pytest

import cfx_jax
from cfx_jax.fido.settings import get_settings
from cfx_jax.runs import batch_size
from cfx_jax.runs.batch_size import compile_to_fit, even_batch, smaller_batch
from cfx_jax.runs.solver import Solver


class Analytic:
    """Stands for a solver whose programs take `fixed + size * each` bytes."""

    def __init__(self, fixed, each, refuses_above=10**9):
        self.fixed, self.each, self.refuses_above = fixed, each, refuses_above
        self.tried = []

    def compile(self, size):
        self.tried.append(size)
        self.per_device_batch_size = size
        if size > self.refuses_above:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: does not fit")
        return self.fixed + size * self.each


@pytest.fixture
def on_accelerator(monkeypatch):
    """Replaces the devices by one that reports its memory, which a CPU does not."""

    class Device:
        platform = "gpu"

        def memory_stats(self):
            return {"bytes_limit": 1000}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])


@pytest.mark.parametrize(
    ("fixed", "each", "most", "expected"),
    [
        (0, 10, 16, 16),  # All fit.
        (0, 100, 16, 8),  # 9 fit, and 8 cut 16 into two batches as well.
        (0, 300, 16, 3),  # 3 fit; 6 batches.
        (450, 150, 16, 3),  # Constant memory is counted.
        (0, 5000, 16, 1),  # According to the analysis not even one fits; one is still tried.
        (0, 900, 1, 1),
    ],
)
def test_compile_to_fit_takes_the_largest_batch_that_fits(
    on_accelerator, fixed, each, most, expected
):
    solver = Analytic(fixed, each)
    assert compile_to_fit(solver, most) == fixed + expected * each
    assert solver.tried[-1] == expected
    assert solver.tried == sorted(solver.tried, reverse=True)


def test_compile_to_fit_shrinks_when_the_compiler_lacks_memory(on_accelerator):
    solver = Analytic(0, 1, refuses_above=3)
    assert compile_to_fit(solver, 16) == 2
    assert solver.tried == [16, 8, 4, 2]


def test_compile_to_fit_refuses_one_image_that_does_not_fit(on_accelerator):
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        compile_to_fit(Analytic(0, 1, refuses_above=0), 2)


@pytest.mark.parametrize(
    ("size", "needed", "limit", "expected"),
    [(16, 200, 100, 8), (16, 101, 100, 15), (2, 10**6, 1, 1), (5, 300, 200, 3)],
)
def test_smaller_batch_shrinks_in_proportion(size, needed, limit, expected):
    assert smaller_batch(size, needed, limit) == expected


@pytest.mark.parametrize("most", range(1, 40))
def test_even_batch_needs_no_more_batches(most):
    for size in range(1, most + 1):
        even = even_batch(size, most)
        assert 1 <= even <= size
        assert -(-most // even) == -(-most // size)


@pytest.mark.slow
def test_compile_to_fit_plans_real_programs_within_a_limit():
    """Memory is quadratic in the rows, unlike a network's: the estimate errs, the plan fits."""
    classifier = cfx_jax.Classifier(
        params=(),
        apply=lambda _, x: jax.numpy.tanh(x.reshape(len(x), -1, 1) * x.reshape(len(x), 1, -1)).sum(
            (1,)
        ),
    )
    settings = get_settings("fast", mask_size=4, num_steps=1, num_samples=1)
    models = (classifier, cfx_jax.load_generator("grey"))
    device = jax.local_devices()[:1]
    solver = Solver(jax.random.key(0), *models, settings, ["ssr"], (16, 16, 1), device)
    of_four = solver.compile(4)
    assert solver.compile(1) < of_four / 2
    assert compile_to_fit(solver, 8, limit=of_four) <= of_four
    assert solver.per_device_batch_size == 4
    assert compile_to_fit(solver, 8, limit=0) > 0
    assert solver.per_device_batch_size == 1


def test_device_memory_is_shared_by_the_cpu_devices():
    limits = {batch_size.device_memory(device) for device in jax.local_devices()}
    assert all(2**20 < limit < 2**42 for limit in limits)
    assert np.ptp(list(limits)) < 2**30

"""Intervals: known answers, coverage, and errors."""

import tracemalloc

import numpy as np
import pytest

from cfx_jax.metrics.statistics import bootstrap, paired_difference


def test_bootstrap_interval_equals_the_normal_limit():
    values = np.random.default_rng(0).normal(3.0, 2.0, 2000)
    found = bootstrap(values)
    assert found.mean == pytest.approx(values.mean())
    margin = 1.96 * values.std() / np.sqrt(2000)
    assert found.low == pytest.approx(values.mean() - margin, abs=0.1 * margin)
    assert found.high == pytest.approx(values.mean() + margin, abs=0.1 * margin)


def test_bootstrap_intervals_cover_the_truth_in_19_of_20():
    rng = np.random.default_rng(1)
    intervals = [bootstrap(rng.uniform(size=60), 300, seed) for seed in range(300)]
    held = np.mean([low <= 0.5 <= high for _, low, high in intervals])
    assert 0.91 <= held <= 0.98


def test_bootstrap_intervals_are_percentiles_of_resampled_means():
    """The reference is a plain loop; the tolerance is the change under another seed."""
    values = np.random.default_rng(3).exponential(size=40)
    rng = np.random.default_rng(4)
    means = [rng.choice(values, len(values)).mean() for _ in range(4000)]
    found = bootstrap(values, 4000)
    np.testing.assert_allclose(found[1:], np.percentile(means, [2.5, 97.5]), atol=0.02)
    assert bootstrap(values[:1]) == (values[0],) * 3


def test_bootstrap_memory_does_not_grow_with_the_images():
    values = np.random.default_rng(5).uniform(size=200_000)
    tracemalloc.start()
    bootstrap(values, 20)
    assert tracemalloc.get_traced_memory()[1] < 20 * values.nbytes
    tracemalloc.stop()


def test_bootstrap_repeats_with_the_same_seed():
    values = np.random.default_rng(0).normal(size=50)
    assert bootstrap(values) == bootstrap(values)
    assert bootstrap(values) != bootstrap(values, seed=1)


def test_paired_difference_removes_common_variation():
    rng = np.random.default_rng(2)
    hard = rng.normal(0.0, 10.0, 100)
    theirs = hard + rng.normal(0.0, 0.1, 100)
    found = paired_difference(hard + 1.0, theirs)
    assert 0.9 < found.low < 1.0 < found.high < 1.1
    apart = bootstrap(hard + 1.0)
    assert apart.high - apart.low > 20 * (found.high - found.low)


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]], [1.0, np.nan], [np.inf]])
def test_bootstrap_refuses_input_that_is_no_finite_list(values):
    with pytest.raises(ValueError, match="expected one finite number per image"):
        bootstrap(np.asarray(values))


def test_paired_difference_refuses_other_images():
    with pytest.raises(ValueError, match="expected the same images"):
        paired_difference(np.zeros(3), np.zeros(4))

"""Masks of given areas, for a classifier with all evidence in one place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax.fido.areas import explain_areas

KEY = jax.random.key(0)
SIZE = 16


@pytest.fixture
def corner(linear_classifier):
    """All evidence lies in the top left quarter, and whatever is filled with 0 has none."""
    weights = np.zeros((SIZE, SIZE, 3))
    weights[:8, :8] = 0.1
    return linear_classifier(weights)


@pytest.mark.parametrize("objective", ["ssr", "sdr"])
def test_explain_areas_covers_the_evidence_first(corner, fill_half, objective):
    images = jnp.ones((1, SIZE, SIZE, 3))
    black = fill_half.replace(params=jnp.asarray(0.0))
    areas = (0.1, 0.25)
    found = explain_areas(KEY, corner, black, images, np.array([1]), objective=objective,
                          areas=areas, num_steps=150)  # fmt: skip
    importance = np.asarray(found.importance[0])
    inside = importance[:, :8, :8].mean((1, 2)) - importance[:, 8:, 8:].mean((1, 2))
    assert (inside > 0.3).all()
    np.testing.assert_allclose(found.areas, areas, rtol=1e-6)
    # A share of the pixels holds four times that share of the evidence, or takes it away.
    whole = 0.1 * 64 * 3
    best = np.array(areas) * 4 * whole
    best = best if objective == "ssr" else whole - best
    np.testing.assert_allclose(found.log_odds[0], best, atol=0.2 * whole)


def test_explain_areas_checks_its_arguments(corner, fill_half, images):
    for areas in ((0.0,), (1.0,), ()):
        with pytest.raises(ValueError, match="areas"):
            explain_areas(KEY, corner, fill_half, jnp.ones((1, SIZE, SIZE, 3)), areas=areas)

"""The stability of an explanation: agreement of the two stages of its search."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax.fido.explanation import measure_stability


@pytest.mark.parametrize("direction", [1.0, -1.0])
@pytest.mark.parametrize(
    ("places", "stability"),
    [([0, 1, 2, 3], 1.0), ([0, 1, 4, 5], 2 / 6), ([4, 5, 6, 7], 0.0)],
)
def test_measure_stability_is_the_iou_of_the_most_important_cells(direction, places, stability):
    """The learnt map keeps (SSR) or drops (SDR) cells 0 to 3; the gradients favour `places`."""
    cells = jnp.arange(16.0)[::-1].reshape(4, 4) * direction
    # Raising a cell that is evidence for the objective lowers the loss.
    gradients = -direction * jnp.zeros(16).at[jnp.asarray(places)].set(1.0).reshape(4, 4)
    found = measure_stability(cells, gradients, jnp.float32(direction), jnp.float32(4 / 16))
    np.testing.assert_allclose(found, stability, atol=1e-6)


def test_measure_stability_of_no_region_is_one():
    zeros = jnp.zeros((3, 3))
    assert measure_stability(zeros, zeros, jnp.float32(1.0), jnp.float32(0.0)) == 1.0


def test_explain_stability_is_high_where_one_patch_decides(fill_half):
    """In `region` and `fast`; the modes without a warm start have none."""

    def apply(_, images):
        white = jax.nn.sigmoid(20.0 * (images[:, 4:10, 4:10].mean((1, 2, 3)) - 0.8))
        return jnp.stack([jnp.zeros_like(white), 8.0 * white - 4.0], axis=1)

    classifier = cfx_jax.Classifier(params=(), apply=apply)

    def explain(**options):
        return cfx_jax.explain(
            jax.random.key(0), classifier, fill_half, jnp.ones((1, 16, 16, 3)), mask_size=8,
            **options,
        )  # fmt: skip

    assert 0.5 < float(explain().stability[0]) <= 1.0
    assert explain(mode="fast", num_steps=8).stability.shape == (1,)
    assert explain(mode="paper", num_steps=2).stability is None

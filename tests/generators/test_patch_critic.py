"""The critic of an adversarial training: its norms and its learning."""

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.generators import patch_critic

KEY = jax.random.key(0)


def test_patch_critic_gives_one_score_per_patch():
    variables = patch_critic.init(KEY, 3)
    images = jax.random.uniform(KEY, (2, 64, 48, 3))
    scores, unchanged = patch_critic.score(variables, images, images[..., :1])
    assert scores.shape == (2, 4, 3, 1)
    jax.tree.map(np.testing.assert_array_equal, unchanged, variables)


def test_patch_critic_power_iteration_bounds_the_singular_value():
    """Scaling a kernel does not change the scores once the norm has been estimated."""
    images = jax.random.uniform(KEY, (1, 32, 32, 1))
    variables = patch_critic.init(KEY, 1)
    scaled = variables | {
        "params": jax.tree.map(lambda p: 5.0 * p if p.ndim > 1 else p, variables["params"])
    }

    @jax.jit
    def scores_after_updates(variables):
        def step(variables, _):
            scores, variables = patch_critic.score(variables, images, images, update=True)
            return variables, scores

        return jax.lax.scan(step, variables, None, length=50)[1][-1]

    found, expected = scores_after_updates(scaled), scores_after_updates(variables)
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-4)


def test_patch_critic_learns_to_separate_noise_from_grey():
    noise = jax.random.uniform(KEY, (1, 16, 16, 1))
    grey, mask = jnp.full_like(noise, 0.5), jnp.zeros_like(noise)

    @jax.jit
    def step(variables):
        def loss(params):
            real, new = patch_critic.score(variables | {"params": params}, noise, mask, update=True)
            false, _ = patch_critic.score(variables | {"params": params}, grey, mask)
            return jnp.mean(jax.nn.relu(1 - real) + jax.nn.relu(1 + false)), new

        (value, new), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        stepped = jax.tree.map(lambda p, g: p - 0.05 * g, variables["params"], gradient)
        return new | {"params": stepped}, value

    variables, losses = patch_critic.init(KEY, 1), []
    for _ in range(40):
        variables, value = step(variables)
        losses.append(float(value))
    assert losses[-1] < 0.5 * losses[0]

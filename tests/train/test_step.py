"""The training step: independent of the number of devices, and its losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax.generators.losses import hole_l1
from cfx_jax.runs import parallel
from cfx_jax.train.step import DEVICE_AXIS, TrainSettings, feature_distance, init_state, train_step

KEY = jax.random.key(0)
SETTINGS = TrainSettings(num_steps=20, learning_rate=0.05, warmup_steps=2, ema_decay=0.9)
PARAMS = {"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}


def linear_loss(params, images, mask, key):
    """Fills with a linear map of the mean kept colour."""
    mean = (mask * images).sum((1, 2)) / jnp.maximum(mask.sum((1, 2)), 1.0)
    infills = (mean @ params["kernel"] + params["bias"])[:, None, None] + 0.0 * images
    return hole_l1(infills, images, mask), infills, {"mean": mean.mean()}


def run(num_devices, num_steps, settings=SETTINGS, classifier_params=None, num_images=8):
    """Trains on fixed images; returns the state on the host and the metrics of each step."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, 32, 32, 3), dtype=np.uint8)
    devices = jax.local_devices()[:num_devices]
    step = parallel.train_over_devices(
        functools.partial(train_step, loss=linear_loss, settings=settings),
        devices,
        DEVICE_AXIS,
    )
    shape = (num_devices, num_images // num_devices)
    state = parallel.replicate(init_state(KEY, PARAMS, 3, settings), devices)
    shared = parallel.replicate((KEY, classifier_params), devices)
    metrics = []
    for _ in range(num_steps):
        rows = np.arange(num_images, dtype=np.int32)
        state, values = step(
            state, parallel.shard(images, *shape), parallel.shard(rows, *shape), *shared
        )
        metrics.append(parallel.unreplicate(values))
    return parallel.unreplicate(state), metrics


@pytest.fixture(scope="module")
def trained():
    return run(1, 10)


def test_train_step_lowers_the_loss_and_counts_steps(trained):
    state, metrics = trained
    assert state.step == 10
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]
    assert set(metrics[0]) == {"loss", "mean", "gradient_norm"}


def test_train_step_does_not_depend_on_the_number_of_devices(trained):
    """The masks of a row depend on its place in the batch, and gradients are averaged."""
    state, metrics = run(4, 10)
    for ours, theirs in zip(metrics, trained[1], strict=True):
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-4)
    for ours, theirs in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(trained[0].params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_train_step_masks_differ_by_step(trained):
    assert len({float(metrics["mean"]) for metrics in trained[1]}) == 10


def test_train_step_parameter_average_forgets_its_start():
    """After n steps the weight of the start is `prod min(decay, (1 + t) / (10 + t))`."""
    state, _ = run(1, 1)
    weight = min(SETTINGS.ema_decay, 1 / 10)
    expected = jax.tree.map(
        lambda old, new: weight * old + (1 - weight) * new, PARAMS, state.params
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-7), state.ema, expected)


def test_hole_l1_by_hand_and_small_holes_count_as_larger_ones():
    images = jnp.zeros((2, 10, 10, 1))
    mask = jnp.ones((2, 10, 10, 1)).at[0, :5].set(0.0).at[1, 0, 0].set(0.0)
    # Half of the first image is off by 1, and one pixel of the second, which counts as 1 of 5.
    np.testing.assert_allclose(hole_l1(images + 1.0, images, mask), (1.0 + 1 / 5) / 2, rtol=1e-6)


@pytest.fixture(scope="module")
def classifier_params():
    return cfx_jax.load_classifier("efficientnet_lite0").params


def test_feature_distance_is_zero_for_equal_images_and_grows(classifier_params):
    images = jax.random.uniform(KEY, (2, 64, 64, 3))
    distance = jax.jit(feature_distance)
    assert distance(classifier_params, images, images) == 0
    near, far = (
        distance(classifier_params, images + 0.1 * scale * (0.5 - images), images)
        for scale in (1, 5)
    )
    assert 0 < near < far


@pytest.mark.slow
def test_train_step_with_all_losses_is_finite(classifier_params):
    settings = TrainSettings(20, 0.05, 2, 0.9, feature_weight=0.5, adversarial_weight=0.1)
    state, metrics = run(2, 3, settings, classifier_params, num_images=4)
    names = {"loss", "mean", "gradient_norm", "feature", "adversarial", "critic"}
    assert set(metrics[-1]) == names
    for leaf in jax.tree.leaves((state, metrics)):
        assert np.isfinite(leaf).all()
    fresh = init_state(KEY, PARAMS, 3, settings)
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.critic, dict(fresh.critic))
    assert all(jax.tree.leaves(changed["params"]))
    assert any(jax.tree.leaves(changed["batch_stats"]))

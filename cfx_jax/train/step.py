"""Trains an in-filling generator: one step on the rows of one device.

Images are float32 `[N, H, W, C]` in [0, 1], masks `[N, H, W, 1]`, 1 = keep. All random numbers of
step t depend only on (key, t, row of the batch), so a training that is stopped and restored
continues like an uninterrupted training.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from cfx_jax.classifiers import efficientnet_lite
from cfx_jax.data import to_floats
from cfx_jax.generators import Loss, blend, patch_critic
from cfx_jax.train import masks

DEVICE_AXIS = "device"
# Stages of EfficientNet-Lite0 that the feature loss compares: 1/4, 1/8 and 1/16 of the resolution.
_FEATURE_STAGES = (1, 2, 4)
_CLIP_NORM = 1.0
# Learning rate of Adam, for biases and for the critic, relative to that of Muon.
_ADAM_SHARE = 0.1
# Muon's steps have the same length for any gradient, so kernels only grow without decay: a training
# without decay diverged after 1250 steps.
_WEIGHT_DECAY = 0.1


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """The hyper-parameters of a training.

    Attributes:
        num_steps: number of optimiser steps.
        learning_rate: peak learning rate of Muon, which rises linearly, then follows a cosine to
            zero.
        warmup_steps: number of steps over which the learning rate rises.
        ema_decay: decay of the moving average of the parameters, which is the final result.
        feature_weight: weight of the feature loss; 0 omits it.
        adversarial_weight: weight of the adversarial loss; 0 omits it.
    """

    num_steps: int
    learning_rate: float
    warmup_steps: int
    ema_decay: float
    feature_weight: float = 0.0
    adversarial_weight: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.warmup_steps < self.num_steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps} and num_steps {self.num_steps}; expected "
                "1 <= warmup_steps < num_steps"
            )
        if not (self.learning_rate > 0 and 0 <= self.ema_decay < 1):
            raise ValueError(
                f"learning_rate is {self.learning_rate} and ema_decay {self.ema_decay}; expected a "
                "positive rate and a decay of at least 0, below 1"
            )
        if min(self.feature_weight, self.adversarial_weight) < 0:
            raise ValueError(
                f"feature_weight is {self.feature_weight} and adversarial_weight "
                f"{self.adversarial_weight}; expected at least 0"
            )


@flax.struct.dataclass
class TrainState:
    """The state of a training, as stored in a checkpoint.

    Attributes:
        step: number of steps taken, int32 scalar.
        params: parameters of the generator.
        ema: moving average of `params`.
        optimizer: state of the generator's optimiser.
        critic: variables of the critic, None without an adversarial loss.
        critic_optimizer: state of the critic's optimiser, None without an adversarial loss.
    """

    step: jax.Array
    params: Any
    ema: Any
    optimizer: Any
    critic: Any = None
    critic_optimizer: Any = None


def init_state(key: jax.Array, params: Any, channels: int, settings: TrainSettings) -> TrainState:
    """Returns the state before the first step.

    Args:
        key: random key of the critic's initial parameters.
        params: initial parameters of the generator.
        channels: number of image channels.
        settings: hyper-parameters.
    """
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=params,
        optimizer=make_optimizer(settings).init(params),
    )
    if not settings.adversarial_weight:
        return state
    critic = patch_critic.init(key, channels)
    return dataclasses.replace(
        state,
        critic=critic,
        critic_optimizer=make_critic_optimizer(settings).init(critic["params"]),
    )


def make_optimizer(settings: TrainSettings) -> optax.GradientTransformation:
    """Returns Muon for kernels and Adam for other parameters, with warm-up and a cosine decay.

    On this task, 100 steps of Muon were as good as 300 steps of Adam at its best rate.
    """
    schedule = _schedule(settings)
    optimizer = muon(
        schedule,
        weight_decay=_WEIGHT_DECAY,
        adam_learning_rate=lambda step: _ADAM_SHARE * schedule(step),
        muon_weight_dimension_numbers=_matrices,
    )
    return optax.chain(optax.clip_by_global_norm(_CLIP_NORM), optimizer)


def make_critic_optimizer(settings: TrainSettings) -> optax.GradientTransformation:
    """Returns Adam without momentum, after clipping of the gradient."""
    schedule = _schedule(settings)
    return optax.chain(
        optax.clip_by_global_norm(_CLIP_NORM),
        optax.adam(lambda step: _ADAM_SHARE * schedule(step), b1=0.0, b2=0.9),
    )


def train_step(
    state: TrainState,
    pixels: jax.Array,
    rows: jax.Array,
    key: jax.Array,
    classifier_params: Any,
    *,
    loss: Loss,
    settings: TrainSettings,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one step on this device's rows; gradients are averaged over `DEVICE_AXIS`.

    It minimises `loss + feature_weight * feature + adversarial_weight * adversarial`; the last two
    terms are computed on the composite of kept pixels and in-fill.

    Args:
        state: state of the training, the same on every device.
        pixels: pixels of the images, uint8 `[n, H, W, C]`.
        rows: positions of the images in the batch of all devices, int32 `[n]`.
        key: random key of the training.
        classifier_params: parameters of EfficientNet-Lite0 for the feature loss, else ignored.
        loss: training loss of the generator.
        settings: hyper-parameters.

    Returns:
        `(state, metrics)`, equal on every device; the metrics are scalars by name.
    """
    keys = _row_keys(key, state.step, rows)
    height, width = pixels.shape[1:3]
    # A loop draws one kind of mask per image; vmap would draw every kind for each image.
    mask = jax.lax.map(lambda key: masks.sample_mixture(key, (height, width)), keys)
    truth = to_floats(pixels)
    loss_key = jax.random.fold_in(keys[0], 1)

    def total_loss(params: Any) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]:
        total, infills, terms = loss(params, truth, mask, loss_key)
        infilled = blend(truth, mask, infills)
        terms = {"loss": total} | terms
        if settings.feature_weight:
            terms["feature"] = feature_distance(classifier_params, infilled, truth)
            total += settings.feature_weight * terms["feature"]
        if settings.adversarial_weight:
            scores, _ = patch_critic.score(state.critic, infilled, mask)
            terms["adversarial"] = -jnp.mean(scores)
            total += settings.adversarial_weight * terms["adversarial"]
        return total, (infilled, terms)

    (_, (infilled, terms)), gradient = jax.value_and_grad(total_loss, has_aux=True)(state.params)
    terms, gradient = jax.lax.pmean((terms, gradient), DEVICE_AXIS)
    updates, optimizer = make_optimizer(settings).update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    # A faster decay in early steps removes the random initial parameters from the average.
    decay = jnp.minimum(settings.ema_decay, (1.0 + state.step) / (10.0 + state.step))
    ema = optax.incremental_update(params, state.ema, 1.0 - decay)
    terms["gradient_norm"] = optax.tree.norm(gradient)
    new = dataclasses.replace(
        state, step=state.step + 1, params=params, ema=ema, optimizer=optimizer
    )
    if settings.adversarial_weight:
        new, terms["critic"] = _train_critic(new, infilled, truth, mask, settings)
    return new, terms


def feature_distance(classifier_params: Any, infilled: jax.Array, images: jax.Array) -> jax.Array:
    """Computes the distance between EfficientNet-Lite0 features of two batches of RGB images.

    Formula: `mean over stages of sum |f(infilled) - f(images)| / sum |f(images)|`. The error is
    relative, so that no stage outweighs another. Source: Johnson et al., "Perceptual Losses for
    Real-Time Style Transfer", ECCV 2016. Differs from it in that the error is absolute and
    relative.

    Returns:
        Distance, float32 scalar; 0 if the batches are equal.
    """
    theirs, ours = (
        efficientnet_lite.features(classifier_params, batch) for batch in (images, infilled)
    )
    distances = []
    for stage in _FEATURE_STAGES:
        target = jax.lax.stop_gradient(theirs[f"stage_{stage}"])
        error = jnp.sum(jnp.abs(ours[f"stage_{stage}"] - target))
        distances.append(error / jnp.sum(jnp.abs(target)))
    return jnp.mean(jnp.stack(distances))


def _train_critic(
    state: TrainState,
    infilled: jax.Array,
    truth: jax.Array,
    mask: jax.Array,
    settings: TrainSettings,
) -> tuple[TrainState, jax.Array]:
    """Takes one step of the critic on the hinge loss."""
    infilled = jax.lax.stop_gradient(infilled)

    def hinge(params: Any) -> tuple[jax.Array, Any]:
        critic = state.critic | {"params": params}
        real, critic = patch_critic.score(critic, truth, mask, update=True)
        false, _ = patch_critic.score(critic | {"params": params}, infilled, mask)
        return jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + false)), critic

    params = state.critic["params"]
    (loss, critic), gradient = jax.value_and_grad(hinge, has_aux=True)(params)
    loss, gradient = jax.lax.pmean((loss, gradient), DEVICE_AXIS)
    updates, optimizer = make_critic_optimizer(settings).update(gradient, state.critic_optimizer)
    critic = critic | {"params": optax.apply_updates(params, updates)}
    return dataclasses.replace(state, critic=critic, critic_optimizer=optimizer), loss


def _row_keys(key: jax.Array, step: jax.Array, rows: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.fold_in(key, step), rows)


def _schedule(settings: TrainSettings) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(
        0.0, settings.learning_rate, settings.warmup_steps, settings.num_steps
    )


def _matrices(params: Any) -> Any:
    """Returns the axes by which Muon reads each kernel as a matrix; None for biases."""

    def dimensions(leaf: jax.Array) -> MuonDimensionNumbers | None:
        if leaf.ndim < 2:
            return None
        inputs = tuple(range(leaf.ndim - 1))
        return MuonDimensionNumbers(reduction_axis=inputs, output_axis=leaf.ndim - 1)

    return jax.tree.map(dimensions, params)

"""Trains a small classifier on one device.

It is for datasets without published classifiers, such as digits. The result is
`weights.safetensors` in the workdir, which `load_classifier` and `--config.classifier.weights`
accept. A training takes minutes, so there are no checkpoints: a stopped training starts again.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cfx_jax import data, numerics
from cfx_jax.classifiers import Classifier, NormalizedModule
from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import to_floats
from cfx_jax.records import Storage, claim_folder
from cfx_jax.runs import Bar, cluster, parallel
from cfx_jax.train.config import TrainClassifierConfig
from cfx_jax.weights import ARCHITECTURES, Architecture, encode_params

_EVALUATED_AT_ONCE = 500


class Labelled(NamedTuple):
    """Images, uint8 `[N, H, W, C]`, and their classes, int32 `[N]`."""

    pixels: np.ndarray
    labels: np.ndarray


@numerics.jax_config(numerics.RUN_CONFIG)
def train_classifier(
    config: TrainClassifierConfig, workdir: pathlib.Path
) -> tuple[pathlib.Path, float]:
    """Trains a classifier with cross-entropy and Adam.

    Args:
        config: configuration of the training.
        workdir: folder of the training.

    Returns:
        Path of the weights, and the accuracy on the held-out images.

    Raises:
        ConfigError: the config or the data cannot be used.
        RecordsError: the folder contains a training of another config.
        OSError: the folder cannot be written.
    """
    config.validate()
    for section in (config.data, config.heldout):
        data.check_output_folder(section, workdir)
    architecture = ARCHITECTURES[config.name]
    num_classes = architecture.module.num_classes
    training, heldout = (
        _read(name, section, architecture, num_classes)
        for name, section in (("data", config.data), ("heldout", config.heldout))
    )
    storage = Storage(workdir)
    manifest = {
        "config": dataclasses.asdict(config),
        "num_examples": len(training.labels),
        "environment": cluster.environment(),
    }
    claim_folder(storage, manifest, {})
    apply = NormalizedModule(architecture.module, architecture.layouts[0].normalization)
    blank = jnp.zeros((1, *training.pixels.shape[1:]))
    params = architecture.module.init(jax.random.key(config.seed), blank)["params"]
    params = _fit(params, apply, training, config)
    right = [
        np.argmax(_predict(params, pixels, apply=apply), axis=-1) == labels
        for pixels, labels in parallel.slices(heldout, _EVALUATED_AT_ONCE)
    ]
    storage.write("weights.safetensors", encode_params(params, manifest))
    return workdir / "weights.safetensors", float(np.mean(np.concatenate(right)))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean of `-log p(label)` over logits `[N, K]`, labels int `[N]`."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses)


def _fit(
    params: Any,
    apply: Callable[[Any, jax.Array], jax.Array],
    training: Labelled,
    config: TrainClassifierConfig,
) -> Any:
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.num_steps)
    optimizer = optax.adam(schedule)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, pixels: jax.Array, labels: jax.Array) -> Any:
        images = to_floats(pixels)
        loss, gradient = jax.value_and_grad(
            lambda params: cross_entropy(apply(params, images), labels)
        )(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = optimizer.init(params)
    with Bar(total=config.num_steps, unit="step") as bar:
        for index, rows in enumerate(_batches(len(training.labels), config), 1):
            batch = training.pixels[rows], training.labels[rows]
            params, state, loss = step(params, state, *batch)
            if index % 50 == 0:
                bar.set_postfix_str(f"loss {float(loss):.4f}", refresh=False)
            bar.update()
    return params


def _batches(num_examples: int, config: TrainClassifierConfig) -> Iterator[np.ndarray]:
    """Yields the rows of each step: every image once per epoch, in a new random order."""
    rows: np.ndarray = np.zeros(0, int)
    epoch = 0
    for _ in range(config.num_steps):
        while len(rows) < config.batch_size:
            order = np.random.default_rng((config.seed, epoch)).permutation(num_examples)
            rows, epoch = np.concatenate([rows, order]), epoch + 1
        yield rows[: config.batch_size]
        rows = rows[config.batch_size :]


def _read(
    section: str, config: DataConfig, architecture: Architecture, num_classes: int
) -> Labelled:
    """Decodes a whole small dataset."""
    shape = (architecture.image_size, architecture.image_size, architecture.channels)
    apply = NormalizedModule(architecture.module, architecture.layouts[0].normalization)
    blank = jnp.zeros((1, *shape))
    params = jax.eval_shape(architecture.module.init, jax.random.key(0), blank)["params"]
    # The untrained classifier only defines the number of classes, which class folders need.
    untrained = Classifier(params, apply, image_size=shape[:2], channels=shape[2])
    source = data.open_source(config, untrained)
    number = len(source)
    labels = np.asarray([source.label(index) for index in range(number)], np.int32)
    if not number or np.min(labels) < 0 or np.max(labels) >= num_classes:
        raise ConfigError(
            f"{section}: labels of {source.name!r} expected in 0 to {num_classes - 1}, for one "
            f"image or more; found {sorted(set(labels.tolist()))[:20]}"
        )
    pixels = np.stack([source.pixels(index, shape, config.resize) for index in range(number)])
    return Labelled(pixels, labels)


@functools.partial(jax.jit, static_argnames="apply")
def _predict(
    params: Any, pixels: jax.Array, apply: Callable[[Any, jax.Array], jax.Array]
) -> jax.Array:
    return apply(params, to_floats(pixels))

"""The loop of a training: crops -> steps on all local devices -> checkpoints, log, weights.

The workdir contains `checkpoints/`, from which the same command resumes, `metrics.csv` and
`heldout.csv`, the same numbers for TensorBoard, `samples/`, and at the end `weights.safetensors`:
the moving average of the parameters.
"""

import collections
import dataclasses
import functools
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.flatten_util import ravel_pytree

from cfx_jax import data, numerics, registry
from cfx_jax.config import ConfigError
from cfx_jax.records import Storage, claim_folder
from cfx_jax.runs import Bar, cluster, parallel
from cfx_jax.train._log import Heldout, TrainLog
from cfx_jax.train.config import TrainConfig
from cfx_jax.train.crops import Crops
from cfx_jax.train.photographs import MemoryCrops, load_crops
from cfx_jax.train.step import DEVICE_AXIS, TrainState, init_state, train_step
from cfx_jax.weights import encode_params

LOG_EVERY = 50
_logger = logging.getLogger(__name__)
# Steps started before the host waits for an earlier step, so that devices never wait for the host.
_STEPS_AHEAD = 2


@numerics.jax_config(numerics.RUN_CONFIG)
def train(config: TrainConfig, workdir: pathlib.Path) -> pathlib.Path:
    """Trains a generator, from its last checkpoint if there is one.

    A training that is stopped and called again ends with the weights of an uninterrupted training
    on the same devices.

    Args:
        config: configuration of the training.
        workdir: folder of the training; a training of the same config in it is resumed.

    Returns:
        Path of the weights.

    Raises:
        ConfigError: the config or the data cannot be used.
        RecordsError: the folder contains a training of another config.
        OSError: the folder cannot be written; the last checkpoint is complete.
    """
    config.validate()
    for section in (config.data, config.heldout):
        data.check_output_folder(section, workdir)
    source = data.open_source(config.data)
    heldout = Heldout(config)
    manifest = _manifest(config, source)
    storage = Storage(workdir)
    claim_folder(storage, manifest, {})
    crops = Crops(source, config.crop_size, registry.NETWORKS[config.model].channels, config.seed)
    with _checkpoints(workdir) as checkpoints:
        saved = _restore(checkpoints, config)
        num_draws = (config.num_steps - int(saved.step)) * config.batch_size
        drawn = load_crops(crops, num_draws, jax.local_devices())
        with TrainLog(workdir, int(saved.step)) as log:
            for step, state, metrics in _take_steps(config, saved, drawn):
                log.add(metrics)
                is_checkpoint = _is_due(config, step, config.checkpoint_every)
                # Write at checkpoints, too: a resumed training would average over only some of the
                # steps.
                if is_checkpoint or _is_due(config, step, LOG_EVERY):
                    log.write_metrics(step)
                if _is_due(config, step, config.evaluate_every):
                    log.write_heldout(step, *heldout.measure(parallel.unreplicate(state.ema)))
                if is_checkpoint:
                    saved = parallel.unreplicate(state)
                    _save(checkpoints, step, saved)
    for reason in crops.unreadable.values():
        _logger.warning("unreadable image, skipped: %s", reason)
    storage.write("weights.safetensors", encode_params(saved.ema, manifest))
    return workdir / "weights.safetensors"


def _take_steps(
    config: TrainConfig, state: TrainState, crops: Crops | MemoryCrops
) -> Iterator[tuple[int, TrainState, dict[str, jax.Array]]]:
    """Takes the remaining steps.

    Args:
        config: configuration of the training.
        state: state of the training, on the host.
        crops: crops to train on.

    Yields:
        The number of steps started, and the state and metrics after them, with a leading axis of
        devices; the devices may still be computing them.
    """
    devices = jax.local_devices()
    if config.batch_size % len(devices):
        raise ConfigError(
            f"batch_size is {config.batch_size}; expected a multiple of the {len(devices)} devices"
        )
    settings, model = config.settings(), registry.NETWORKS[config.model]
    take_step = parallel.train_over_devices(
        functools.partial(train_step, loss=model.loss, settings=settings), devices, DEVICE_AXIS
    )
    classifier_params = None
    if settings.feature_weight:
        classifier_params = registry.load_classifier("efficientnet_lite0").params
    rows = config.batch_size
    shard = functools.partial(
        parallel.shard, num_devices=len(devices), rows_per_device=rows // len(devices)
    )
    places = shard(np.arange(rows, dtype=np.int32))
    shared = parallel.replicate((jax.random.key(config.seed), classifier_params), devices)
    first, last = int(state.step), config.num_steps
    state = parallel.replicate(state, devices)
    started: collections.deque[jax.Array] = collections.deque()
    with Bar(total=last * rows, initial=first * rows, unit="image", unit_scale=True) as bar:
        for step, batch in enumerate(crops.batches(first, last, rows), first + 1):
            pixels = crops.on_devices(shard(batch))
            state, metrics = take_step(state, pixels, places, *shared)
            started.append(metrics["loss"])
            while len(started) > (_STEPS_AHEAD if step < last else 0):
                loss = parallel.unreplicate(started.popleft())
                bar.set_postfix_str(f"step {step - len(started)}, loss {loss:.4f}", refresh=False)
                bar.update(rows)
            yield step, state, metrics


def _is_due(config: TrainConfig, step: int, every: int) -> bool:
    return step % every == 0 or step == config.num_steps


def _checkpoints(workdir: pathlib.Path) -> ocp.CheckpointManager:
    # Checkpoints are saved in the background; an old one is deleted only when a newer one is
    # complete.
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=True)
    return ocp.CheckpointManager(workdir.absolute() / "checkpoints", options=options)


def _restore(checkpoints: ocp.CheckpointManager, config: TrainConfig) -> TrainState:
    """Returns the state of the last checkpoint, or the initial state."""
    model = registry.NETWORKS[config.model]
    init_key, critic_key = jax.random.split(jax.random.key(config.seed))
    state = jax.jit(
        lambda: init_state(critic_key, model.init(init_key), model.channels, config.settings())
    )()
    step = checkpoints.latest_step()
    if step is None:
        return state
    numbers, unravel = ravel_pytree(state)
    restored: TrainState = unravel(checkpoints.restore(step, args=ocp.args.ArrayRestore(numbers)))
    return restored


def _save(checkpoints: ocp.CheckpointManager, step: int, state: TrainState) -> None:
    # Save all numbers as one array: if several arrays are written, each failure after the first
    # prints a traceback.
    numbers, _ = ravel_pytree(state)
    try:
        checkpoints.save(step, args=ocp.args.ArraySave(numbers))
    except Exception as error:  # It may come from the previous save, which ended later.
        raise OSError(
            f"cannot save a checkpoint into {checkpoints.directory} ({error}); the last complete "
            "one is kept, and the same command resumes from it"
        ) from error


def _manifest(config: TrainConfig, source: data.Source) -> dict[str, Any]:
    """Returns the values that identify a training; only `environment` may differ on resumption."""
    fields = dataclasses.asdict(config)
    for name in ("heldout", "max_heldout", "evaluate_every", "checkpoint_every"):
        del fields[name]
    # The path of the images may change; the fingerprint identifies them.
    del fields["data"]["path"]
    return {
        "config": fields,
        "dataset": {"num_examples": len(source), "fingerprint": source.fingerprint},
        "num_devices": len(jax.local_devices()),
        "environment": cluster.environment(),
    }

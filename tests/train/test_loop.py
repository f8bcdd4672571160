"""The training command in separate processes: killed, resumed, on a full disk, on broken data."""

import csv
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest
from absl import flags
from PIL import Image
from safetensors import safe_open

from cfx_jax.commands import command_line
from cfx_jax.config import ConfigError
from cfx_jax.records.manifest import RecordsError, read_manifest
from cfx_jax.records.storage import Storage
from cfx_jax.train import loop
from cfx_jax.train.config import TrainConfig
from cfx_jax.train.step import TrainState
from cfx_jax.weights.params_file import read_arrays

# How ml_collections loads a config file; a command does not show it.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning"),
]
ROOT = pathlib.Path(__file__).parents[2]
STEPS = 8


@pytest.fixture(scope="module")
def start():
    """Starts a small training on one device; processes share what they compile."""
    several, *others = os.environ["XLA_FLAGS"].split()
    assert several.startswith("--xla_force_host_platform_device_count")
    return functools.partial(start_with, os.environ | {"XLA_FLAGS": " ".join(others)})


def command(data, workdir, *arguments):
    return [
        "cfx_jax.train", "--config=configs/train_vae_mnist.py", f"--workdir={workdir}",
        f"--config.data.path={data}", f"--config.heldout.path={data}",
        "--config.data.source=folder", "--config.data.split=",
        "--config.heldout.source=folder", "--config.heldout.split=",
        "--config.max_heldout=2", "--config.crop_size=16", "--config.batch_size=4",
        f"--config.num_steps={STEPS}", "--config.warmup_steps=2", "--config.evaluate_every=4",
        "--config.checkpoint_every=2", *arguments,
    ]  # fmt: skip


def start_with(environment, data, workdir, *arguments, before=()):
    return subprocess.Popen(
        [*before, sys.executable, "-m", *command(data, workdir, *arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def saved_steps(workdir):
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten images of noise, two of which cannot be read."""
    folder = tmp_path_factory.mktemp("digits")
    rng = np.random.default_rng(0)
    for index in range(10):
        pixels = rng.integers(0, 256, (28, 28), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    for index in (3, 4):
        (folder / f"{index}.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def undisturbed(start, data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    code, out, err = finish(start(data, workdir))
    assert code == 0, err
    return workdir, out, err


def test_train_writes_weights_metrics_and_pictures(undisturbed):
    workdir, out, err = undisturbed
    assert out.splitlines()[-1] == f"weights: {workdir}/weights.safetensors"
    assert "warning: unreadable image, skipped: 3.png" in err
    assert "image/s" in err
    assert "loss" in err
    assert saved_steps(workdir) == [6, 8]
    with (workdir / "heldout.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["mask"]) for row in rows[::5]] == [
        ("4", "noise_50"),
        ("8", "noise_50"),
    ]
    Image.open(workdir / "samples" / "step_00000008.png").load()
    manifest, _ = read_manifest(Storage(workdir))
    with safe_open(workdir / "weights.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["card"]) == manifest


def test_train_killed_or_out_of_disk_resumes_to_the_same_weights(
    start, data, undisturbed, tmp_path
):
    process = start(data, tmp_path)
    while not saved_steps(tmp_path) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = saved_steps(tmp_path)
    assert kept
    assert kept[-1] < STEPS

    # No file may grow beyond 96 KiB: the CSV files fit, a checkpoint does not.
    full_disk = ["bash", "-c", 'ulimit -f 96; exec "$@"', "bash"]
    code, _, err = finish(start(data, tmp_path, before=full_disk))
    assert code == 2, err
    assert "cannot save a checkpoint" in err
    assert "the same command resumes from it" in err
    assert "Traceback" not in err
    assert kept[-1] in saved_steps(tmp_path)

    code, _, err = finish(start(data, tmp_path))
    assert code == 0, err
    ours, theirs = (
        read_arrays(folder / "weights.safetensors") for folder in (tmp_path, undisturbed[0])
    )
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)
    for name in ("metrics.csv", "heldout.csv"):
        assert (tmp_path / name).read_text() == (undisturbed[0] / name).read_text()


def test_take_steps_starts_two_steps_ahead(monkeypatch):
    started, waited = [], []

    def train_over_devices(*_):
        def take_step(state, *_):
            started.append(len(started) + 1)
            return state, {"loss": started[-1]}

        return take_step

    def wait(step):
        waited.append((step, len(started)))
        return step

    monkeypatch.setattr(loop.parallel, "train_over_devices", train_over_devices)
    monkeypatch.setattr(loop.parallel, "unreplicate", wait)
    devices = len(jax.local_devices())
    config = TrainConfig(model="vae_digits", batch_size=devices, num_steps=7, warmup_steps=2)
    state = TrainState(*[np.zeros((), np.int32)] * 4)
    crops = types.SimpleNamespace(
        batches=lambda *_: np.zeros((7, devices, 1), np.uint8), on_devices=lambda batch: batch
    )
    steps = loop._take_steps(config, state, crops)
    assert [(step, metrics["loss"]) for step, _, metrics in steps] == [(n, n) for n in started]
    assert waited == [(1, 3), (2, 4), (3, 5), (4, 6), (5, 7), (6, 7), (7, 7)]


def assert_user_error(data, workdir, argument, expected, monkeypatch):
    """Trains in this process and checks the error; a command shows it as in the test above."""
    argv = command(data, workdir, argument)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", argv)  # Where flags of configs look for their fields.

    def start():
        config, folder, _ = command_line.parse_command(argv, TrainConfig, "", flags.FlagValues())
        loop.train(config, pathlib.Path(folder))

    with pytest.raises((ConfigError, RecordsError), match=expected):
        start()


def test_train_refuses_the_folder_of_another_training(data, undisturbed, monkeypatch):
    assert_user_error(data, undisturbed[0], "--config.seed=1", "seed: stored 0, now 1", monkeypatch)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--config.data.path=/nowhere", "no image folder at '/nowhere'"),
        ("--config.model=lama", "model is 'lama'; expected one of gated_unet"),
        ("--config.explain.mode=fast", "unknown config field config.explain"),
    ],
)
def test_train_names_user_errors(data, tmp_path, argument, expected, monkeypatch):
    assert_user_error(data, tmp_path, argument, expected, monkeypatch)

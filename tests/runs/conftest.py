"""Starts real processes of the command line on real files, and reads what they write."""

import os
import pathlib
import subprocess
import sys
import time
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from skimage import data

ROOT = pathlib.Path(__file__).parents[2]
NUM_IMAGES = 64


class Run:
    """A process; its output goes to a file, because no test reads a pipe while it waits."""

    def __init__(self, command, workdir, log, environment):
        self.workdir, self._log = workdir, log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
            )

    def num_complete(self):
        """Returns the number of units on disk."""
        return len(list(self.workdir.glob("records.zarr/complete/c/*")))

    def wait_for_units(self, number):
        """Waits until `number` units are on disk, or the run has ended."""
        give_up = time.monotonic() + 600
        while self.num_complete() < number and self.process.poll() is None:
            assert time.monotonic() < give_up, self._log.read_text()
            time.sleep(0.005)

    def finish(self, *codes, timeout=300):
        """Waits for the end and checks the exit status; returns the output."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        output = self._log.read_text()
        assert code in (codes or (0,)), output
        return output


class Commands:
    """Starts runs over the same photographs with the same small classifier.

    Their programs are optimised, and compiled once for all processes. For one or two images it is
    faster to compile without optimisation: pass `unoptimised` as the environment.
    """

    unoptimised: ClassVar = {"XLA_FLAGS": os.environ["XLA_FLAGS"]}

    def __init__(self, folder):
        self.folder, self._started = folder, 0
        self.photographs = folder / "photographs"
        self.photographs.mkdir()
        rng = np.random.default_rng(0)
        sources = [data.chelsea(), data.coffee(), data.rocket()]
        for index in range(NUM_IMAGES):
            source = sources[index % 3]
            top, left = (int(rng.integers(side - 128)) for side in source.shape[:2])
            crop = Image.fromarray(source[top : top + 128, left : left + 128])
            crop.save(self.photographs / f"{index:02}.png")
        shapes = {
            "conv1": (32, 1, 3, 3), "conv2": (64, 32, 3, 3), "fc1": (128, 9216), "fc2": (10, 128)
        }  # fmt: skip
        arrays = {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in shapes.items()}
        for name, shape in shapes.items():
            weight = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) / 2)
            arrays[f"{name}.weight"] = weight.astype(np.float32)
        self.weights = folder / "weights.safetensors"
        save_file(arrays, self.weights)
        self.environment = os.environ | {"XLA_FLAGS": ""}

    def arguments(self, workdir, *more, num_steps=14):
        """Returns the arguments of a run, whose images may stop after 10 steps."""
        return [
            "--config=configs/folder.py", f"--workdir={workdir}",
            f"--config.data.path={self.photographs}",
            "--config.classifier.name=mnist_cnn", f"--config.classifier.weights={self.weights}",
            "--config.generator.name=grey",
            f"--config.explain.num_steps={num_steps}", "--config.explain.num_samples=2",
            "--config.explain.mask_size=14", "--config.explain.patience=2",
            "--config.explain.warm_start_steps=0", "--config.explain.warmup_steps=6",
            "--config.batch.per_device_batch_size=2",
            # Pictures of all 64 images would take half of the time of a process.
            "--config.batch.unit_size=4", "--config.report.max_images=2", *more,
        ]  # fmt: skip

    def start(self, workdir, *more, pod=None, num_steps=14, environment=None, first=""):
        """Starts a run; `pod = (num_processes, devices_per_process)` makes it a pod.

        `first` is code that a process runs before the command.
        """
        launcher = [sys.executable, "-m", "cfx_jax.main"]
        if first:
            main = "runpy.run_module('cfx_jax.main', run_name='__main__', alter_sys=True)"
            launcher = [sys.executable, "-c", f"import runpy\n{first}\n{main}"]
        if pod:
            launcher = [
                sys.executable, "launch/local_pod.py", f"--num_processes={pod[0]}",
                f"--devices_per_process={pod[1]}", "--",
            ]  # fmt: skip
        command = [*launcher, *self.arguments(workdir, *more, num_steps=num_steps)]
        self._started += 1
        log = self.folder / f"{self._started}.log"
        return Run(command, workdir, log, self.environment | (environment or {}))

    def run(self, workdir, *more, code=0, **options):
        """Runs to the end; returns the output."""
        return self.start(workdir, *more, **options).finish(code)


@pytest.fixture(scope="session")
def commands(tmp_path_factory):
    return Commands(tmp_path_factory.mktemp("commands"))


@pytest.fixture(scope="session")
def undisturbed(commands, tmp_path_factory):
    """The finished run of a pod of two processes with two devices each."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    commands.run(workdir, pod=(2, 2))
    return workdir


@pytest.fixture(scope="session")
def files():
    """Reads the bytes of every file of a store, by name."""

    def read(workdir):
        root = workdir / "records.zarr"
        paths = [path for path in root.rglob("*") if path.is_file()]
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}

    return read

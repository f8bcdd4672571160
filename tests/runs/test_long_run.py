"""Many images in one run, in a separate process: constant memory, and no second trace."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from cfx_jax.records import RecordReader

pytestmark = pytest.mark.slow
NUM_IMAGES, UNIT_SIZE = 10_000, 200
CODE = """
import gc, json, sys
import jax, jax.numpy as jnp, psutil
import cfx_jax
from cfx_jax.config import *
from cfx_jax.records import RecordWriter
from cfx_jax.runs import runner

traces = []

def apply(params, images):
    traces.append(images.shape)
    hidden = jax.lax.conv_general_dilated(
        images, params[0], (4, 4), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.tanh(hidden).mean((1, 2)) @ params[1]

keys = jax.random.split(jax.random.key(0))
params = jax.random.normal(keys[0], (4, 4, 3, 8)), jax.random.normal(keys[1], (8, 10))
classifier = cfx_jax.Classifier(params=params, apply=apply, image_size=(32, 32))

seen = []
write_unit = RecordWriter.write_unit

def watched(self, unit, values):
    write_unit(self, unit, values)
    gc.collect()
    seen.append((psutil.Process().memory_info().rss, len(traces)))

RecordWriter.write_unit = watched
runner.run(Config(
    data=DataConfig(source="npz", path=sys.argv[1], resize="stretch"),
    generator=GeneratorConfig(name="grey"),
    explain=ExplainConfig(objective="ssr", num_steps=4, num_samples=2, mask_size=8),
    batch=BatchConfig(per_device_batch_size=int(sys.argv[3]) // 2, unit_size=int(sys.argv[3])),
    report=ReportConfig(save_images=False),
), sys.argv[2], classifier=classifier)
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of the run, and after each unit the bytes in use and how often JAX had traced."""
    folder = tmp_path_factory.mktemp("long")
    images = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 32, 32, 3), np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(NUM_IMAGES) % 10)
    process = subprocess.run(
        [sys.executable, "-c", CODE, folder / "images.npz", folder / "run", str(UNIT_SIZE)],
        capture_output=True, text=True, check=False,
        # Optimised, unlike in the other tests: the program runs for longer than it compiles.
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return folder / "run", json.loads(process.stdout)


def test_run_of_many_images_records_each_once(finished):
    workdir, seen = finished
    assert len(seen) == NUM_IMAGES / UNIT_SIZE
    ids = RecordReader(workdir).ids()
    assert len(set(ids)) == len(ids) == NUM_IMAGES
    assert np.isfinite(RecordReader(workdir).read("ssr_objective")).all()


def test_run_of_many_images_has_flat_memory(finished):
    _, seen = finished
    memory = np.asarray([memory for memory, _ in seen[len(seen) // 5 :]])
    # Bytes are counted when a unit is written, while the devices may or may not run a program: its
    # memory counts as much early as late.
    early, late = np.array_split(memory, 2)
    assert late.max() < 1.05 * early.max()
    assert late.min() < 1.05 * early.min()


def test_run_of_many_images_does_not_retrace(finished):
    _, seen = finished
    assert seen[0][1] == seen[-1][1] > 0

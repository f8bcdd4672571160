"""Pods of real processes on one machine write the same records as a single process."""

import pathlib
import random
import signal
import time

import numpy as np
import psutil
import pytest
import zarr
from scipy.special import expit

ROOT = pathlib.Path(__file__).parents[2]
NUM_KILLS = 20
# Python runs this first: it makes a process of a pod kill itself at a chosen point.
VICTIM = """
import os, signal, sys

if {"cfx_jax.main", "--process_id=" + os.environ["VICTIM"]} <= set(sys.orig_argv):
    from cfx_jax.records import RecordWriter, store
    from cfx_jax.runs import cluster
    from cfx_jax.runs.progress import ProgressBar

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    def die_writing(self, unit, values):
        start, stop = self.unit_range(unit)
        for name in sorted(values)[::2]:
            self._arrays[name][start:stop].write(values[name]).result()
        die()

    def die_after_two_units(self, unit, values):
        write_unit(self, unit, values)
        written.append(unit)
        if len(written) == 2:
            die()

    write_unit, written = RecordWriter.write_unit, []
    owner, name, action = {
        "before the manifest": (store, "claim_folder", die),
        "in the first unit": (ProgressBar, "update", die),
        "while a unit is written": (RecordWriter, "write_unit", die_writing),
        "between units": (RecordWriter, "write_unit", die_after_two_units),
        "when its units are done": (cluster, "wait_for_units", die),
    }[os.environ["POINT"]]
    setattr(owner, name, action)
"""
# The process that dies: process 0 where it must have units left, since process 1 continues.
POINTS = {
    "before the manifest": 1,
    "in the first unit": 0,
    "while a unit is written": 0,
    "between units": 0,
    "when its units are done": 1,
}


def read(workdir):
    group = zarr.open_group(workdir / "records.zarr", mode="r")
    return {name: array[:] for name, array in group.arrays()}


@pytest.mark.slow
def test_pod_equals_one_process_with_as_many_devices(commands, undisturbed, tmp_path):
    commands.run(tmp_path / "alone", pod=(1, 2))
    pod, alone = read(undisturbed), read(tmp_path / "alone")
    assert sorted(pod) == sorted(alone)
    ids = [row.tobytes().rstrip(b"\0").decode() for row in pod["id"]]
    assert ids == [f"{index:02}.png" for index in range(64)], "each image once, none missing"
    assert pod["complete"].all()
    for name, values in pod.items():
        np.testing.assert_array_equal(values, alone[name], err_msg=name)
    keep = expit(pod["ssr_mask_logits"].astype(np.float32))
    assert np.ptp(keep) > 0.05, "something was learnt"
    assert len(set(pod["sdr_steps"].tolist())) > 1, "images stop at different steps"
    assert (undisturbed / "report/index.html").is_file()


@pytest.mark.slow
def test_pod_and_one_device_agree_on_nearly_all_masks(commands, undisturbed, tmp_path):
    """Not on all: XLA divides the work by the number of devices, so rounding differs.

    At a kink of the network, or at the limit of a stopping rule, an image may then differ.
    """
    commands.run(tmp_path / "alone", pod=(1, 1))
    pod, alone = read(undisturbed), read(tmp_path / "alone")
    for name in ("id", "label", "target", "complete"):
        np.testing.assert_array_equal(pod[name], alone[name])
    for name in ("ssr_mask_logits", "sdr_mask_logits"):
        step = np.finfo(pod[name].dtype).eps
        close = np.isclose(pod[name], alone[name], rtol=step, atol=1e-3)
        # On two cores 63 of 64.
        assert close.reshape(64, -1).all(axis=1).mean() >= 0.9, name


@pytest.mark.slow
def test_pod_hosts_read_their_slices_of_a_tfds_dataset(
    commands, undisturbed, tmp_path, prepare_tfds
):
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(encoding_format="png"),
        "label": tfds.features.ClassLabel(num_classes=10),
        "file_name": tfds.features.Text(),
    }
    examples = {
        path.name: {"image": str(path), "label": number % 10, "file_name": path.name}
        for number, path in enumerate(sorted(commands.photographs.iterdir())[:21])
    }
    prepare_tfds(tmp_path / "tfds", "pod_photographs", features, {"validation": examples})
    commands.run(
        tmp_path / "run", "--config.data.source=tfds", f"--config.data.path={tmp_path}/tfds",
        "--config.data.name=pod_photographs", "--config.data.split=validation",
        "--config.explain.objective=ssr", pod=(2, 1),
    )  # fmt: skip
    found, known = read(tmp_path / "run"), read(undisturbed)
    assert found["complete"].all()
    ids = [row.tobytes().rstrip(b"\0").decode() for row in found["id"]]
    assert ids == [f"pod_photographs/1.0.0/validation/{index}" for index in range(21)]
    # TFDS shuffles what it prepares: each record is one of the photographs, with its label.
    pixels = known["image"][:21].reshape(21, -1).astype(int)
    places = [int(np.abs(pixels - image.reshape(-1)).sum(1).argmin()) for image in found["image"]]
    assert sorted(places) == list(range(21))
    assert found["label"].tolist() == [place % 10 for place in places]
    np.testing.assert_array_equal(found["image"], known["image"][places])
    np.testing.assert_array_equal(found["prediction"], known["prediction"][places])


def members(pod):
    """Returns the processes that a pod has started."""
    try:
        children = psutil.Process(pod.process.pid).children()
        return [child for child in children if "cfx_jax.main" in child.cmdline()]
    except psutil.NoSuchProcess:
        return []


def assert_same_bytes(found, expected):
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.slow
def test_pod_killed_at_every_point_ends_with_the_same_bytes(commands, undisturbed, files, tmp_path):
    """The processes die in turn, each at its point; the same run resumes after each."""
    (tmp_path / "sitecustomize.py").write_text(VICTIM)
    workdir, kept = tmp_path / "run", []
    for point, process in POINTS.items():
        environment = {
            "PYTHONPATH": f"{tmp_path}:{ROOT}", "VICTIM": str(process), "POINT": point,
        }  # fmt: skip
        pod = commands.start(workdir, pod=(2, 2), environment=environment)
        pod.finish(128 + signal.SIGKILL)
        kept.append(pod.num_complete())
    assert kept == sorted(kept)
    assert kept[2] < kept[3], "what was written before is not lost"
    commands.run(workdir, pod=(2, 2))
    assert_same_bytes(files(workdir), files(undisturbed))


@pytest.mark.slow
def test_pod_killed_twenty_times_ends_with_the_same_bytes(commands, undisturbed, files, tmp_path):
    """A process, drawn at random, dies while the pod starts, compiles, computes or writes."""
    rng = random.Random(0)
    workdir = tmp_path / "run"
    for _ in range(NUM_KILLS):
        pod = commands.start(workdir, pod=(2, 2))
        # After zero to two more units and a random time.
        more = rng.randrange(3)
        pod.wait_for_units(pod.num_complete() + more)
        time.sleep(rng.uniform(0, 0.3 if more else 6))
        if running := members(pod):
            rng.choice(running).send_signal(signal.SIGKILL)
        pod.finish(128 + signal.SIGKILL, 0, timeout=60)
    commands.run(workdir, pod=(2, 2))
    assert_same_bytes(files(workdir), files(undisturbed))


@pytest.mark.slow
def test_pod_preempted_while_starting_stops(commands, tmp_path):
    pod = commands.start(tmp_path / "run", pod=(2, 2))
    while len(members(pod)) < 2:
        assert pod.process.poll() is None
    pod.process.send_signal(signal.SIGTERM)
    output = pod.finish(timeout=60)
    assert output.count("before anything new was written; resume with the same command") == 2
    assert len(output.splitlines()) == 2


@pytest.mark.slow
def test_pod_with_a_wrong_config_exits_with_its_message_and_2(commands, tmp_path):
    output = commands.run(
        tmp_path / "run", "--config.data.path=/no/such/folder", pod=(2, 1), code=2
    )
    lines = [line for line in output.splitlines() if not line.startswith("[pod] ")]
    assert {line.partition(": ")[0] for line in lines} == {"[0] error", "[1] error"}


@pytest.mark.slow
def test_pod_preempted_while_running_stops_and_resumes(commands, undisturbed, files, tmp_path):
    pod = commands.start(tmp_path / "run", pod=(2, 2))
    pod.wait_for_units(3)
    for _ in range(3):  # The first signal requests the stop, the others change nothing.
        pod.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    output = pod.finish(timeout=20)
    assert output.count("resume with the same command") == 2
    assert 3 <= pod.num_complete() < 16
    commands.run(tmp_path / "run", pod=(2, 2))
    assert files(tmp_path / "run") == files(undisturbed)

"""Pods of real processes on one machine, over photographs: the records of one process alone."""

import random
import signal
import time

import numpy as np
import psutil
import zarr

NUM_KILLS = 20


def read(workdir):
    group = zarr.open_group(workdir / "records.zarr", mode="r")
    return {name: array[:] for name, array in group.arrays()}


def test_a_pod_gives_what_one_process_with_one_device_gives(commands, undisturbed, tmp_path):
    commands.run(tmp_path / "alone", pod=(1, 1))
    pod, alone = read(undisturbed), read(tmp_path / "alone")
    assert sorted(pod) == sorted(alone)
    ids = [row.tobytes().rstrip(b"\0").decode() for row in pod["id"]]
    assert ids == [f"{index:02}.png" for index in range(64)], "each image once, none missing"
    assert pod["complete"].all()
    for name, values in pod.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(values, alone[name], atol=1e-3, err_msg=name)
        elif not name.endswith("_infilled"):  # Pixels of a hard mask may fall to either side.
            np.testing.assert_array_equal(values, alone[name], err_msg=name)
    keep = 1 / (1 + np.exp(-pod["ssr_mask_logits"].astype(np.float32)))
    assert np.ptp(keep) > 0.05, "something was learnt"
    assert (undisturbed / "report/index.html").is_file()


def members(pod):
    """The processes that a pod has started."""
    try:
        children = psutil.Process(pod.process.pid).children()
        return [child for child in children if "cfx_jax.main" in child.cmdline()]
    except psutil.NoSuchProcess:
        return []


def test_killed_twenty_times_it_ends_with_the_same_bytes(commands, undisturbed, files, tmp_path):
    """A process, drawn at random, dies while the pod starts, compiles, computes or writes."""
    rng = random.Random(0)
    workdir = tmp_path / "run"
    for _ in range(NUM_KILLS):
        pod = commands.start(workdir, pod=(2, 2))
        # Up to two more units than before and some time after; none: anywhere on the way there.
        more = rng.randrange(3)
        pod.wait_for_units(pod.num_complete() + more)
        time.sleep(rng.uniform(0, 0.3 if more else 6))
        if running := members(pod):
            rng.choice(running).send_signal(signal.SIGKILL)
        pod.finish(128 + signal.SIGKILL, 0, timeout=60)
    commands.run(workdir, pod=(2, 2))
    expected, found = files(undisturbed), files(workdir)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def test_a_pod_that_is_pre_empted_stops_and_goes_on(commands, undisturbed, files, tmp_path):
    pod = commands.start(tmp_path / "run", pod=(2, 2))
    pod.wait_for_units(3)
    pod.process.send_signal(signal.SIGTERM)
    output = pod.finish(timeout=20)
    assert output.count("resume with the same command") == 2
    assert 3 <= pod.num_complete() < 16
    commands.run(tmp_path / "run", pod=(2, 2))
    assert files(tmp_path / "run") == files(undisturbed)

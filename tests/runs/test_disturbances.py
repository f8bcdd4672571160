"""Disturbed runs: stops, full and read-only disks, two runs at once, damage, bad images."""

import contextlib
import pathlib
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import zarr
from PIL import Image

from cfx_jax.records import RecordReader
from cfx_jax.runs.checking import find_problems


@pytest.fixture(scope="module")
def alone(commands, tmp_path_factory):
    """The finished run of one process, to be read only."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    commands.run(workdir)
    return workdir


@contextlib.contextmanager
def mounted(path, options):
    """A file system in memory with options such as its size."""
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.slow
def test_run_stopped_by_sigterm_resumes(commands, alone, files, tmp_path):
    run = commands.start(tmp_path / "run")
    run.wait_for_units(2)
    run.process.send_signal(signal.SIGTERM)
    output = run.finish(timeout=10)
    assert output.splitlines()[-1] == "stopped by SIGTERM; resume with the same command"
    kept = run.num_complete()
    assert 2 <= kept < 16
    output = commands.run(tmp_path / "run")
    assert f"/{64 - 4 * kept} images, written" in output, "only the rest is computed"
    assert files(tmp_path / "run") == files(alone)


@pytest.mark.slow
def test_run_stops_on_sigterm_while_its_page_is_written(commands, alone, files, tmp_path):
    first = "from cfx_jax.report import page; page._MIN_SECONDS = 0.01; page._TIMES_A_PAGE = 0.0"
    page = tmp_path / "run" / "report" / "index.html"
    run = commands.start(tmp_path / "run", first=first)
    run.wait_for_units(2)
    while not page.exists() and run.process.poll() is None:
        time.sleep(0.005)
    run.process.send_signal(signal.SIGTERM)
    output = run.finish(timeout=10)
    assert output.splitlines()[-1] == "stopped by SIGTERM; resume with the same command"
    assert output.count(f"updated during the run: {page}") == 1
    kept = run.num_complete()
    assert 2 <= kept < 16
    shown = re.search(r"(\d+) of 64 examples", page.read_text())
    assert 4 <= int(shown[1]) <= 4 * kept
    commands.run(tmp_path / "run")
    assert "64 of 64 examples" in page.read_text()
    assert files(tmp_path / "run") == files(alone)


@pytest.mark.slow
def test_run_on_a_full_disk_loses_only_the_current_unit(commands, alone, files, tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, "size=400k"):
        run = commands.start(disk / "run")
        output = run.finish(2)
        assert "Traceback" not in output
        assert "error: " in output
        assert "resume with the same command" in output
        assert 1 <= run.num_complete() < 16
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        commands.run(disk / "run")
        assert files(disk / "run") == files(alone)


def test_run_refuses_a_read_only_workdir_before_computing(commands, tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, "ro"):
        output = commands.run(disk / "run", code=2)
    assert "Traceback" not in output
    assert f"{disk}/run" in output
    assert "choose another --workdir" in output
    assert "compiling" not in output


@pytest.mark.slow
def test_run_refuses_a_second_run_in_the_same_workdir(commands, tmp_path):
    first = commands.start(tmp_path / "run", num_steps=200)
    first.wait_for_units(1)
    first.process.send_signal(signal.SIGSTOP)  # It keeps the folder, and leaves the cores alone.
    for pod in (None, (2, 1)):
        output = commands.run(tmp_path / "run", code=2, pod=pod, num_steps=200)
        assert "Traceback" not in output
        assert "another run is writing to it" in output
    first.process.send_signal(signal.SIGCONT)
    first.wait_for_units(first.num_complete() + 1)
    first.process.send_signal(signal.SIGTERM)
    first.finish(timeout=10)
    assert [problems for _, problems in RecordReader(tmp_path / "run").damage() if problems] == []


@pytest.mark.slow
def test_run_finds_and_recomputes_damaged_chunks(commands, alone, files, tmp_path):
    run = shutil.copytree(alone, tmp_path / "run")
    flipped, cut, lost = (run / f"records.zarr/sdr_mask_logits/c/{unit}/0/0" for unit in (5, 7, 9))
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    lost.unlink()
    found = list(find_problems(run))
    assert [problem.partition(": ")[0] for problem in found] == [
        "unit 5 (examples 20 to 23)", "unit 7 (examples 28 to 31)", "unit 9 (examples 36 to 39)"
    ]  # fmt: skip
    assert all("sdr_mask_logits" in problem for problem in found)
    output = commands.run(run)
    assert "/12 images, written" in output, "three units are computed"
    for unit in (5, 7, 9):
        message = f"unit {unit} is damaged, and computed again: {{'sdr_mask_logits'"
        assert f"warning: {message}" in output
        assert message in (run / "log").read_text()
    assert list(find_problems(run)) == []
    assert files(run) == files(alone)


def make_bad_folder(folder):
    """Every kind of file that a folder of images may hold; returns the names of the sound ones."""
    folder.mkdir()
    photograph = Image.effect_noise((60, 50), 80).convert("RGB")
    photograph.save(folder / "sound.jpg")
    content = (folder / "sound.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(content[: len(content) // 3])
    (folder / "zero_byte.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not a picture")
    photograph.convert("CMYK").save(folder / "cmyk.jpg")
    deep = np.linspace(0, 65535, 3000).reshape(50, 60).astype(np.uint16)
    Image.fromarray(deep).save(folder / "sixteen_bit.png")
    photograph.convert("L").save(folder / "grey.png")
    photograph.convert("RGBA").save(folder / "alpha.png")
    photograph.save(folder / "animated.webp", save_all=True, append_images=[photograph])
    photograph.resize((1, 1)).save(folder / "one_pixel.png")
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    bad = {"truncated.jpg", "zero_byte.jpg", "text.jpg", "huge.png"}
    return {path.name for path in folder.iterdir()} - bad, bad


def peak_memory(run):
    """Waits for a run; returns what it printed and the most memory it had, in bytes."""
    peak = 0
    while run.process.poll() is None:
        # Not the value that the system reports at the end, which includes the parent before exec.
        status = pathlib.Path(f"/proc/{run.process.pid}/status").read_text()
        peak = max(peak, *(int(n) << 10 for n in re.findall(r"VmHWM:\s+(\d+) kB", status)), 0)
        time.sleep(0.02)
    return run.finish(), peak


@pytest.mark.slow
def test_run_explains_the_good_files_of_a_bad_folder(commands, tmp_path):
    sound, bad = make_bad_folder(tmp_path / "images")
    run = commands.start(tmp_path / "run", f"--config.data.path={tmp_path}/images")
    output, peak = peak_memory(run)
    for name in bad:
        assert f"unreadable image, recorded as such: {name}" in output
    group = zarr.open_group(tmp_path / "run/records.zarr", mode="r")
    ids = [row.tobytes().rstrip(b"\0").decode() for row in group["id"][:]]
    status = dict(zip(ids, group["ssr_status"][:].tolist(), strict=True))
    assert {name for name, code in status.items() if code == 5} == bad
    assert set(status) == sound | bad
    finite = dict(zip(ids, np.isfinite(group["ssr_objective"][:]).tolist(), strict=True))
    assert {name for name, value in finite.items() if value} == sound

    for name in bad:
        (tmp_path / "images" / name).unlink()
    run = commands.start(tmp_path / "sound", f"--config.data.path={tmp_path}/images")
    _, expected = peak_memory(run)
    # The 400 million pixels of one of the bad files would take more than that, decoded.
    assert 2**28 < peak < expected + 300 * 2**20

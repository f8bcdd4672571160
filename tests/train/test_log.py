"""The log files of a training, also after a resumption."""

import csv

import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event

from cfx_jax.train import _log as log_module
from cfx_jax.train._log import TrainLog
from cfx_jax.train.quality import Quality


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(workdir, first_step, last_step):
    with TrainLog(workdir, first_step) as log:
        for step in range(first_step + 1, last_step + 1):
            log.add({"loss": jnp.float32([step]), "kl": jnp.float32([0.5])})
            if step % 2 == 0:
                log.write_metrics(step)
                quality = {"square": Quality(psnr=step / 3, l1=0.1, ssim=0.9)}
                log.write_heldout(step, quality, b"picture")


def test_train_log_metrics_are_means_since_the_last_row(tmp_path):
    write(tmp_path, 0, 4)
    assert read(tmp_path / "metrics.csv") == [
        {"step": "2", "loss": "1.5", "kl": "0.5"},
        {"step": "4", "loss": "3.5", "kl": "0.5"},
    ]
    assert read(tmp_path / "heldout.csv")[1] == {
        "step": "4", "mask": "square", "psnr": "1.33333", "l1": "0.1", "ssim": "0.9"
    }  # fmt: skip
    assert (tmp_path / "samples" / "step_00000004.png").read_bytes() == b"picture"


def test_train_log_fetches_metrics_some_steps_late(tmp_path, monkeypatch):
    fetched = []

    def fetch(tree):
        fetched.append(len(tree) if isinstance(tree, list) else 1)
        return [{"loss": 1.0}] * fetched[-1] if isinstance(tree, list) else {"loss": 1.0}

    monkeypatch.setattr(log_module.parallel, "unreplicate", fetch)
    with TrainLog(tmp_path, 0) as log:
        for step in range(10):
            log.add({"loss": step})
        assert fetched == [1] * 6
        log.write_metrics(10)
        assert fetched == [1] * 6 + [4]


def test_train_log_resumed_equals_an_undisturbed_one(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "resumed").mkdir()
    write(tmp_path / "whole", 0, 8)
    # Killed after step 6, in the middle of a row; the last checkpoint is of step 4.
    write(tmp_path / "resumed", 0, 6)
    with (tmp_path / "resumed" / "metrics.csv").open("a") as file:
        file.write("8,7.")
    write(tmp_path / "resumed", 4, 8)
    for name in ("metrics.csv", "heldout.csv"):
        assert read(tmp_path / "resumed" / name) == read(tmp_path / "whole" / name)


def test_train_log_restarts_when_no_row_remains(tmp_path):
    write(tmp_path, 0, 4)
    write(tmp_path, 0, 2)
    assert [row["step"] for row in read(tmp_path / "metrics.csv")] == ["2"]


def test_train_log_tensorboard_has_the_same_numbers(tmp_path):
    write(tmp_path, 0, 2)
    (path,) = (tmp_path / "tensorboard").iterdir()
    values = {}
    for record in records(path.read_bytes()):
        event = Event.FromString(record)
        for value in event.summary.value:
            values[value.tag, event.step] = value.simple_value
    assert values["train/loss", 2] == pytest.approx(1.5)
    assert values["heldout/square/psnr", 2] == pytest.approx(2 / 3)


def records(data):
    """Splits a TensorBoard file: length, its checksum, the record, its checksum."""
    while data:
        length = int.from_bytes(data[:8], "little")
        yield data[12 : 12 + length]
        data = data[16 + length :]

"""The log file in the folder of a run."""

import logging

import pytest

from cfx_jax.records import Storage
from cfx_jax.runs import _log

logger = logging.getLogger("cfx_jax.somewhere")


def messages(content):
    """Lines without their times."""
    return [line.split(maxsplit=2)[2] for line in content.decode().splitlines()]


@pytest.mark.parametrize(("host", "name"), [(0, "log"), (3, "log-3")])
def test_run_log_keeps_earlier_messages_and_appends(tmp_path, host, name, monkeypatch):
    # pytest sends logged messages between processes, and fails for invalid text.
    monkeypatch.setattr(logging.getLogger("cfx_jax"), "propagate", False)
    storage = Storage(tmp_path)
    for run in ("first", "second"):
        with _log.RunLog() as file:
            logger.warning("before the %s", run)
            file.begin(storage, host)
            logger.warning("caf\udce9")
            # Already written: a killed process loses nothing.
            assert messages(storage.read(name))[-1] == "WARNING caf\\udce9"
    logger.warning("after both")
    lines = ["before the first", "caf\\udce9", "before the second", "caf\\udce9"]
    assert messages(storage.read(name)) == [f"WARNING {line}" for line in lines]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_run_log_ends_with_the_final_error(tmp_path):
    def run():
        with _log.RunLog() as file:
            file.begin(Storage(tmp_path))
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        run()
    assert messages(Storage(tmp_path).read("log")) == ["ERROR ended by OSError('the disk is full')"]


def test_run_log_that_has_not_begun_writes_nothing(tmp_path):
    with _log.RunLog():
        logger.warning("refused")
    assert not list(tmp_path.iterdir())


def test_run_log_that_cannot_be_written_does_not_stop_the_run(tmp_path):
    (tmp_path / "log").mkdir()
    with _log.RunLog() as file:
        file.begin(Storage(tmp_path))
        logger.warning("careful")


class Bucket:
    """A storage whose files cannot be appended to."""

    root = None

    def __init__(self):
        self.files, self.writes = {}, 0

    def read(self, name):
        return self.files.get(name)

    def write(self, name, data):
        self.files[name] = data
        self.writes += 1


def test_run_log_in_a_bucket_is_written_at_the_end():
    bucket = Bucket()
    for run in ("first", "second"):
        with _log.RunLog() as file:
            file.begin(bucket)
            logger.warning("in the %s", run)
            logger.warning("again")
    lines = ["in the first", "again", "in the second", "again"]
    assert messages(bucket.files["log"]) == [f"WARNING {line}" for line in lines]
    assert bucket.writes == 2

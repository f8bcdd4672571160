"""The lock of a run: a second run is refused, and probing the lock refuses no run."""

import concurrent.futures
import fcntl
import os
import threading
import time

from cfx_jax.records import Storage
from cfx_jax.records.lock import RunLock, is_locked


def open_shared(path):
    """Probes a file, and keeps the lock until the file is closed."""
    file = path.open()
    fcntl.flock(file, fcntl.LOCK_SH)
    return file


def open_and_release(storage, host, num_hosts):
    RunLock(storage, host, num_hosts).release()


def test_is_locked_ignores_a_probe_of_a_stale_file(tmp_path):
    """The lock files of a pod of three remain; two hosts of a pod of two probe them at once."""
    storage = Storage(tmp_path)
    open_and_release(storage, 0, 3)
    with open_shared(tmp_path / ".locks/0-of-3"):
        assert not is_locked(storage)
        open_and_release(storage, 1, 2)


def test_run_lock_is_acquired_during_a_probe(tmp_path):
    storage = Storage(tmp_path)
    open_and_release(storage, 0, 1)
    probe = open_shared(tmp_path / ".locks/0-of-1")
    threading.Timer(0.1, probe.close).start()
    lock = RunLock(storage, 0, 1)
    assert is_locked(storage)
    lock.release()


def test_run_lock_admits_hosts_despite_stale_files(tmp_path, monkeypatch):
    """Each host is a thread: a lock belongs to an open file, not to a process."""
    close, barrier = os.close, threading.Barrier(4)
    for host in range(3):
        open_and_release(Storage(tmp_path), host, 3)
    # So that a probe lasts until another one begins.
    monkeypatch.setattr(os, "close", lambda file: (time.sleep(0.002), close(file)))

    def start(host):
        for _ in range(3):
            barrier.wait(timeout=10)
            open_and_release(Storage(tmp_path), host, 4)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(start, range(4)))  # Raises what a host raised.

"""Prevents two runs from writing to one folder on a local disk at the same time."""

import errno
import fcntl
import os
import time

from cfx_jax.records.storage import RecordsError, Storage

_FOLDER = ".locks"
# Seconds to retry the lock of this host: a probe by another process lasts microseconds.
_PATIENCE = 0.5
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class RunLock:
    """A lock held by each host of a run; the kernel releases it even if the process is killed.

    Host h of n locks its own file, `h-of-n`: a second run with as many hosts finds it locked. The
    host then checks that no file of a run with another number of hosts is locked. Each run locks
    before it checks, so of two runs that start at the same time at least one is refused.
    """

    def __init__(self, storage: Storage, host: int, num_hosts: int) -> None:
        """Locks the folder; does nothing in a bucket, or if the disk does not support locks.

        Raises:
            RecordsError: another run is writing to the folder.
        """
        self._file: int | None = None
        if storage.root is None:
            return
        folder = storage.root / _FOLDER
        folder.mkdir(exist_ok=True)
        self._file = os.open(folder / f"{host}-of-{num_hosts}", os.O_RDWR | os.O_CREAT, 0o666)
        others = [path for path in folder.iterdir() if not path.name.endswith(f"-of-{num_hosts}")]
        if not _lock_for_itself(self._file) or any(map(_is_locked, others)):
            self.release()
            raise RecordsError(
                f"{storage}: another run is writing to it; wait until it has ended, or choose "
                "another --workdir"
            )

    def __del__(self) -> None:
        self.release()

    def release(self) -> None:
        """Releases the lock."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def is_locked(storage: Storage) -> bool | None:
    """Returns whether a run is writing to a folder; None in a bucket, where this is unknown."""
    if storage.root is None:
        return None
    folder = storage.root / _FOLDER
    return folder.is_dir() and any(map(_is_locked, folder.iterdir()))


def _is_locked(path: os.PathLike[str]) -> bool:
    file = os.open(path, os.O_RDONLY)
    try:
        # A shared lock, so that a probe does not mistake another probe for a run.
        return not _lock(file, fcntl.LOCK_SH)
    finally:
        os.close(file)


def _lock_for_itself(file: int) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while not _lock(file, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    return True

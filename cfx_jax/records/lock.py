"""Keeps two runs from writing to one folder on a local disk at once."""

import errno
import fcntl
import os
import time

from cfx_jax.records.manifest import RecordsError
from cfx_jax.records.storage import Storage

_FOLDER = ".locks"
# Seconds an owner tries for: a probe of its file by another process lasts microseconds.
_PATIENCE = 0.5
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


class RunLock:
    """Held by each host of a run while it lives; the kernel lets go of it however a process ends.

    Host h of n locks a file of its own, `h-of-n`: a second run of as many hosts finds it locked. It
    then checks whether a file of a run with another number of hosts is. Each run locks before it
    checks, so of two that start at once at least one is refused.
    """

    def __init__(self, storage: Storage, host: int, num_hosts: int) -> None:
        """Locks the folder; does nothing in a bucket, or where the disk knows no locks.

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
        """Lets other runs in."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def is_locked(storage: Storage) -> bool | None:
    """Tells whether a run is writing to a folder now; None in a bucket, where nobody knows."""
    if storage.root is None:
        return None
    folder = storage.root / _FOLDER
    return folder.is_dir() and any(map(_is_locked, folder.iterdir()))


def _is_locked(path: os.PathLike[str]) -> bool:
    file = os.open(path, os.O_RDONLY)
    try:
        # Shared: of several that probe at once, none takes another for a run.
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

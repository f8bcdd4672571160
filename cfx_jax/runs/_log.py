"""The log of a run: messages of the package's logger `cfx_jax`, in the run's folder.

Every module logs to its own child of that logger, `logging.getLogger(__name__)`. Commands print it
on the terminal; other programs configure it themselves, as for any library.
"""

import contextlib
import logging

from cfx_jax.records import Storage

_logger = logging.getLogger("cfx_jax")


class RunLog(logging.Handler):
    """Handler that appends messages to the file `log` of a run's folder, from `begin` on.

    Earlier messages, from the loading of models, are kept until `begin`, so a rejected run leaves
    no file. Of several hosts, host h > 0 writes `log-h`. A file in a bucket cannot be appended to:
    it is written as a whole when the log is closed. Errors in writing the log are ignored.

    Example:
        >>> import logging, tempfile
        >>> workdir = tempfile.mkdtemp()
        >>> with RunLog() as log:
        ...     log.begin(Storage(workdir))
        ...     logging.getLogger("cfx_jax").warning("the disk is nearly full")
        >>> Storage(workdir).read("log").decode().split()[2:]
        ['WARNING', 'the', 'disk', 'is', 'nearly', 'full']
    """

    def __init__(self) -> None:
        """Collects messages; nothing is written yet."""
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._lines: list[str] = []
        self._storage: Storage | None = None
        self._name = ""

    def __enter__(self) -> "RunLog":
        _logger.addHandler(self)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        _logger.removeHandler(self)
        if error is not None:
            ended = f"ended by {error!r}"
            self.handle(_logger.makeRecord("cfx_jax", logging.ERROR, "", 0, ended, (), None))
        if self._storage is not None and self._storage.root is None:
            with contextlib.suppress(OSError):
                before = self._storage.read(self._name) or b""
                self._storage.write(self._name, before + self._take())

    def begin(self, storage: Storage, host: int = 0) -> None:
        """Writes all messages so far, and from now on every message."""
        self.acquire()
        self._storage, self._name = storage, f"log-{host}" if host else "log"
        self._append()
        self.release()

    def emit(self, record: logging.LogRecord) -> None:
        """Adds a line, and writes it if the file can be appended to."""
        self._lines.append(f"{self.format(record)}\n")
        self._append()

    def _append(self) -> None:
        if self._storage is not None and self._storage.root is not None:
            # Opened for each of the few lines, so that none is lost when the process is killed.
            with contextlib.suppress(OSError), (self._storage.root / self._name).open("ab") as file:
                file.write(self._take())

    def _take(self) -> bytes:
        text = "".join(self._lines).encode(errors="backslashreplace")
        self._lines.clear()
        return text

"""Terminal output of log messages: those of the package's logger `cfx_jax`, from level INFO."""

import contextlib
import logging
import sys
from collections.abc import Iterator

from tqdm import tqdm

from cfx_jax.runs import cluster

_logger = logging.getLogger("cfx_jax")


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Prints log messages on standard error, above a progress bar if there is one.

    Of several processes, the first prints all messages, the others print only warnings.
    """
    handler, level = _Console(), _logger.level
    _logger.addHandler(handler)
    _logger.setLevel(logging.INFO)
    # Otherwise absl, which handles the root logger, would print each message again.
    _logger.propagate = False
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        _logger.setLevel(level)
        _logger.propagate = True


class _Console(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            tqdm.write(f"{record.levelname.lower()}: {self.format(record)}", file=sys.stderr)
        elif cluster.is_first():
            tqdm.write(self.format(record), file=sys.stderr)

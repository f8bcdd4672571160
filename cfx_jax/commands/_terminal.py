"""What is logged, on the terminal: the package's logger `cfx_jax`, from level INFO on."""

import contextlib
import logging
import sys
from collections.abc import Iterator

from tqdm import tqdm

from cfx_jax.runs import cluster

_logger = logging.getLogger("cfx_jax")


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Shows what is logged on the standard error, above a progress bar if there is one.

    Of several processes the first one shows all of it, the others only warnings.
    """
    handler, level = _Console(), _logger.level
    _logger.addHandler(handler)
    _logger.setLevel(logging.INFO)
    # Else absl, which has the root, shows it again.
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

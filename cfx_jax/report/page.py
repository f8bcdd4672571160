"""A run with its gallery, written during the run and at its end, and its table as text."""

import contextlib
import itertools
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator

from cfx_jax.classifiers import Classifier
from cfx_jax.config import Config
from cfx_jax.fido import label_result
from cfx_jax.records import RecordsError, Storage
from cfx_jax.report.examples import describe, rather, read_units
from cfx_jax.report.gallery import open_folder, write_gallery
from cfx_jax.runs import Explanations, StopRequest, cluster, runner

_logger = logging.getLogger(__name__)

# Pause between two versions of the gallery during a run: at least `_MIN_SECONDS`, and at least
# `_TIMES_A_PAGE` times the duration of writing, so that writing takes a twentieth of the time.
_MIN_SECONDS = 30.0
_TIMES_A_PAGE = 20.0
# Number of failed attempts to write the gallery after which a warning is logged.
_FAILURES = 2
_MAX_SUMMARY_ROWS = 40
_ID_WIDTH, _CLASS_WIDTH = 24, 32


def run_with_page(
    config: Config,
    workdir: str | os.PathLike[str],
    stop: StopRequest,
    *,
    classifier: Classifier | None = None,
) -> str:
    """Runs a config like `cfx_jax.run`, and writes the gallery of the run.

    Args:
        config: configuration of the run.
        workdir: folder of the run.
        stop: stop request, as in `cfx_jax.run`; a stop does not wait for the gallery.
        classifier: replaces the classifier of the config, as in `cfx_jax.run`.

    Returns:
        Path of `report/index.html` in `workdir`; "" on all processes of a run except the first.

    Raises:
        ConfigError: as in `cfx_jax.run`.
        RecordsError: as in `cfx_jax.run`.
        OSError: `workdir` cannot be written, or its `report` contains files of another program.
        StoppedError: the run was requested to stop.
    """
    # Check on all processes, so that all raise the same error. The first check names the workdir.
    Storage(workdir)
    open_folder(_place(workdir))
    if not cluster.is_first():
        runner.run(config, workdir, stop, classifier=classifier)
        return ""
    with kept_fresh(workdir, config.report.max_images, stop):
        runner.run(config, workdir, stop, classifier=classifier)
    try:
        return write_report(workdir, config.report.max_images, stop.check)
    except OSError as error:
        raise OSError(
            f"{error}; the records of the run are complete; write the gallery to another folder: "
            f"python -m cfx_jax.report {os.fspath(workdir)} --output=DIR"
        ) from error


def write_report(
    workdir: str | os.PathLike[str],
    max_images: int | None = 100,
    check: Callable[[], None] | None = None,
) -> str:
    """Writes the gallery of a run, with all results computed so far.

    Args:
        workdir: the run's folder, written by `RecordWriter`.
        max_images: number of computed examples, from the first on, whose pictures are drawn; None =
            all. The numbers cover all examples. An existing gallery never loses pictures.
        check: function called between files; an exception in it ends the writing, see
            `write_gallery`.

    Returns:
        Path of `report/index.html` in `workdir`.

    Raises:
        FileNotFoundError: there is no run in the folder.
        RecordsError: the manifest or a chunk is damaged, or does not belong to a run.
        ValueError: `max_images` is negative.
    """
    place = _place(workdir)
    if max_images is not None and max_images >= 0:
        max_images = max(max_images, open_folder(place).num_pictured)
    return write_gallery([workdir], place, max_images, check)


def _place(workdir: str | os.PathLike[str]) -> str:
    return f"{os.fspath(workdir).rstrip('/')}/report"


@contextlib.contextmanager
def kept_fresh(
    workdir: str | os.PathLike[str], max_images: int | None, stop: StopRequest
) -> Iterator[None]:
    """Rewrites the gallery of a run from time to time, in a thread, while the run continues.

    Neither the end of the run nor a request to stop waits for the gallery: writing ends after the
    current file, and the previous version remains.

    Args:
        workdir: the run's folder; it need not exist yet.
        max_images: number of examples whose pictures are drawn, as in `write_report`.
        stop: stop request of the run.
    """
    ended = threading.Event()
    arguments = (workdir, max_images, stop, ended)
    thread = threading.Thread(target=_write_now_and_then, args=arguments, name="page")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class _EndedError(Exception):
    """Error raised when the run has ended or is requested to stop."""


def _write_now_and_then(
    workdir: str | os.PathLike[str],
    max_images: int | None,
    stop: StopRequest,
    ended: threading.Event,
) -> None:
    def check() -> None:
        if ended.is_set() or stop.deadline < float("inf"):
            raise _EndedError

    shown, pause, failures = 0, _MIN_SECONDS, 0
    while not ended.wait(pause):
        begun = time.monotonic()
        try:
            # Units completed by all processes of the run.
            if (computed := int(Explanations(workdir).complete.sum())) > shown:
                place = write_report(workdir, max_images, check)
                if not shown:
                    _logger.info("gallery of the results so far, updated during the run: %s", place)
                shown = computed
        except _EndedError:
            return
        except FileNotFoundError:
            pass  # The run has not begun.
        except (OSError, RecordsError) as error:
            # No warning after a single failure: the run may just be creating its records.
            failures += 1
            if failures == _FAILURES:
                _logger.warning("the gallery cannot be written during the run: %s", error)
        pause = max(_MIN_SECONDS, _TIMES_A_PAGE * (time.monotonic() - begun))


def summary(workdir: str | os.PathLike[str]) -> str:
    """Returns the table of a run as text: class, probability and log-odds, area, status.

    Args:
        workdir: the run's folder, written by `RecordWriter`.

    Returns:
        One line for each computed example and objective, at most 40, and a line with the count.
    """
    run = Explanations(workdir)
    rows = [
        ("image", "explained class", "objective", "before", "after", "kept", "stability", "status")
    ]
    described = (
        describe(run, unit, row) for unit in read_units(run) for row in range(len(unit.indices))
    )
    for example in itertools.islice(described, _MAX_SUMMARY_ROWS // len(run.results)):
        for name, result in example["results"].items():
            cells = [
                result[name] for name in ("before", "after", "kept_area", "stability", "status")
            ]
            rows.append(
                (_end(example["id"]), _begin(example["target"]), label_result(name), *cells)
            )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    # With `top_classes` an image is several examples, one for each class.
    what = "images" if run.option("top_classes") is None else "examples"
    lines.append(f"{run.complete.sum()} of {run.num_examples} {what}; before, after: ")
    lines[-1] += f"probability (log-odds) of the class{_visible(rather(run))}"
    return "\n".join(lines)


def _end(text: str) -> str:
    """Returns the end of an id: files of one folder differ at the end."""
    text = _visible(text)
    return text if len(text) <= _ID_WIDTH else f"…{text[1 - _ID_WIDTH :]}"


def _begin(text: str) -> str:
    """Returns the beginning of a class name, and the number of the class, which is unique."""
    text = _visible(text)
    if len(text) <= _CLASS_WIDTH:
        return text
    number = found[0] if (found := re.search(r" \(\d+\)$", text)) else ""
    return f"{text[: _CLASS_WIDTH - 1 - len(number)]}…{number}"


def _visible(text: str) -> str:
    """Escapes characters that move the cursor, reverse the text direction or are invisible."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

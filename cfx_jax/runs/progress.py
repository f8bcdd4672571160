"""Progress: a bar on a terminal, a widget in a notebook, or else a line every 30 seconds."""

import contextlib
import io
import sys
import time
from typing import Any

from tqdm.auto import tqdm

SECONDS_BETWEEN_LINES = 30.0
# tqdm chooses the widget if ipywidgets can draw it; a notebook without ipywidgets gets lines.
_IS_WIDGET = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
_BAR = "{bar}" if _IS_WIDGET else "{bar:24}"


# Errors of a standard error stream that is None, as in a service, lacks `isatty`, or is closed.
_NO_STREAM = (AttributeError, ValueError)


def _is_terminal() -> bool:
    try:
        return bool(sys.stderr.isatty())
    except _NO_STREAM:
        return False


class Bar(tqdm):
    """Progress bar of tqdm, which prints lines where a bar cannot be redrawn."""

    def __init__(self, **options: Any) -> None:
        """Starts the clock; `options` are passed to tqdm."""
        self._in_lines = not (_IS_WIDGET or _is_terminal())
        self._next_line = 0.0
        super().__init__(**options, file=io.StringIO() if self._in_lines else sys.stderr)

    def display(self, msg: str | None = None, pos: int | None = None, **state: Any) -> None:
        """Draws the bar, or prints a line if one is due; `state` is passed to a widget."""
        if not self._in_lines:
            super().display(msg, pos, **state)
        elif msg is None and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            with contextlib.suppress(*_NO_STREAM):
                sys.stderr.write(f"{self}\n")
                sys.stderr.flush()

    def close(self) -> None:
        """Closes the bar; its last state stays."""
        self._next_line = 0.0
        super().close()


class ProgressBar:
    """Progress bar that counts optimiser steps of single images, and images done."""

    def __init__(self, num_images: int, steps_per_image: int, shown: bool) -> None:
        """Starts the clock.

        Args:
            num_images: number of images to explain.
            steps_per_image: optimiser steps per image, over all objectives.
            shown: whether the bar is displayed; on a pod only one process displays it.
        """
        self._num_images = num_images
        self._steps_per_image = steps_per_image
        self._images_done = 0
        self._bar = Bar(
            total=num_images * steps_per_image,
            disable=not (num_images and shown),
            desc=f"0/{num_images} images, compiling",
            bar_format=f"{{percentage:3.0f}}% |{_BAR}| {{desc}} [{{elapsed}}, {{remaining}} left]",
        )

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, objective_name: str, steps: int, objective: float) -> None:
        """Advances the bar by `steps` optimiser steps of single images."""
        self._bar.update(steps)
        self._describe(f"{objective_name.upper()} objective {objective:.2f}")

    def finish_images(self, num_images: int) -> None:
        """Counts images as done, including unreadable images, which take no steps."""
        self._images_done += num_images
        missing = self._images_done * self._steps_per_image - self._bar.n
        # Negative if steps of later images are counted already.
        self._bar.update(max(0, missing))
        self._describe("written")

    def _describe(self, text: str) -> None:
        self._bar.set_description_str(f"{self._images_done}/{self._num_images} images, {text}")

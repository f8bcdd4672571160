"""The log of a training: metrics and held-out quality as CSV and for TensorBoard, and samples."""

import collections
import csv
import io
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter

from cfx_jax import data, registry
from cfx_jax.data import to_floats
from cfx_jax.generators import Generator, blend
from cfx_jax.records import Storage
from cfx_jax.report import pictures
from cfx_jax.runs import parallel
from cfx_jax.train.config import TrainConfig
from cfx_jax.train.quality import Quality, fill_images, heldout_masks, measure_quality

_STEPS_BEHIND = 4  # More than the number of steps that the training starts ahead.
_SHEET_IMAGES = 2  # Number of images per kind of mask on the sheet.


class Heldout:
    """Images that a training never uses, on which in-fills are evaluated."""

    def __init__(self, config: TrainConfig) -> None:
        """Reads the images, evenly spaced over the data, and draws their masks.

        Raises:
            ConfigError: there is no image.
            UnreadableImageError: an image cannot be decoded.
        """
        model = registry.NETWORKS[config.model]
        source = data.open_source(config.heldout)
        count = min(config.max_heldout, len(source))
        shape = (model.image_size, model.image_size, model.channels)
        places = [index * len(source) // count for index in range(count)]
        self._images = to_floats(np.stack([source.pixels(i, shape, "crop") for i in places]))
        self._masks = heldout_masks(count, shape[:2])
        self._apply = model.apply

    def measure(self, params: Any) -> tuple[dict[str, Quality], bytes]:
        """Fills all holes and measures the quality.

        Args:
            params: parameters of the generator.

        Returns:
            Quality by kind of mask, and a sheet of image, masked image and filled image (PNG).
        """
        generator = Generator(params=params, apply=self._apply)
        quality, rows = {}, []
        for kind, mask in self._masks.items():
            infilled = fill_images(generator, self._images, mask)
            quality[kind] = measure_quality(infilled, self._images, mask)
            for image, m, filled in zip(self._images, mask, infilled, strict=True):
                rows.append((image, blend(image, m, 0.5), filled))
        step = max(len(self._images) // _SHEET_IMAGES, 1)
        return quality, pictures.encode_png(pictures.draw_sheet(rows[::step]))


class TrainLog:
    """Log files of a training; a resumption removes the entries after the last checkpoint."""

    def __init__(self, workdir: pathlib.Path, first_step: int) -> None:
        """Opens the files of a training that continues after `first_step`."""
        self._workdir = workdir
        for name in ("metrics.csv", "heldout.csv"):
            _truncate(workdir / name, first_step)
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)
        self._started: collections.deque[Mapping[str, jax.Array]] = collections.deque()
        self._fetched: list[dict[str, Any]] = []

    def __enter__(self) -> "TrainLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._board.close()

    def add(self, metrics: Mapping[str, jax.Array]) -> None:
        """Adds the metrics of a step, with a leading axis of devices; does not wait for them.

        It fetches the metrics of an earlier step. Fetching all metrics together would take as long
        as several steps of a fast device, which would be idle meanwhile.
        """
        self._started.append(metrics)
        if len(self._started) > _STEPS_BEHIND:
            self._fetched.append(parallel.unreplicate(self._started.popleft()))

    def write_metrics(self, step: int) -> None:
        """Writes the means of the metrics added since the last call."""
        steps = [*self._fetched, *parallel.unreplicate(list(self._started))]
        self._started.clear()
        self._fetched.clear()
        means = {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
        self._write("metrics.csv", [{"step": step} | means])
        for name, value in means.items():
            self._board.add_scalar(f"train/{name}", value, step)

    def write_heldout(self, step: int, quality: Mapping[str, Quality], sheet: bytes) -> None:
        """Writes the result of `Heldout.measure`."""
        rows = [{"step": step, "mask": kind} | q._asdict() for kind, q in quality.items()]
        self._write("heldout.csv", rows)
        for row in rows:
            for name in Quality._fields:
                self._board.add_scalar(f"heldout/{row['mask']}/{name}", row[name], step)
        Storage(self._workdir).write(f"samples/step_{step:08d}.png", sheet)

    def _write(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        path = self._workdir / name
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            for row in rows:
                writer = csv.DictWriter(file, list(row))
                if new:
                    writer.writeheader()
                    new = False
                writer.writerow(
                    {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
                )


def _truncate(path: pathlib.Path, last_step: int) -> None:
    """Removes the rows of later steps from a CSV file, and a row that was cut off."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    kept = [row for row in rows if len(row) == len(header) and int(row[0]) <= last_step]
    if not kept:
        path.unlink()
        return
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *kept])
    Storage(path.parent).write(path.name, text.getvalue().encode())

"""The pictures of a run's examples, with their outlines and plots."""

import concurrent.futures
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import expit

from cfx_jax.report import pictures
from cfx_jax.report.examples import ReportUnit
from cfx_jax.report.folder import GalleryFolder
from cfx_jax.runs import TOP, Explanations

_GREY = 128  # Colour of missing pictures.
_THREADS = 4
_MAX_STEPS = 200  # Maximum number of drawn steps of a trace.
_DIGITS, _MOST_DIGITS = 5, 9
_BINS = 10  # Number of histogram bins for the probabilities of cells.


class Drawing:
    """Drawing of the examples of a run.

    Attributes:
        tiles: kinds of the pictures in a strip, from left to right.
        geometry: geometry of each strip, see `draw_strip`; empty before the first strip.
        map_size: height and width of the maps that outlines are traced in.
    """

    def __init__(self, storage: GalleryFolder, number: int, run: Explanations) -> None:
        self._storage, self._number, self._run = storage, number, run
        kinds = ("saliency", "infilled") if run.has_pictures else ("saliency",)
        self.tiles = ["original"] * run.has_pictures
        self.tiles += [f"{objective}-{kind}" for objective in run.results for kind in kinds]
        self.geometry: tuple[int, int, int, int] | None = None
        self.map_size: tuple[int, int] | None = None

    def draw(self, unit: ReportUnit, count: int) -> dict[int, tuple[str, dict[str, Any]]]:
        """Draws the first examples of a unit.

        Returns:
            For each readable row, the place of its picture ("" = none) and its details.
        """
        if not count:
            return {}
        run, start = self._run, unit.indices[0]
        kinds = ["trace", *TOP, *["infilled"] * run.has_pictures, *["steps"] * run.has_steps]
        read = {
            f"{objective}_{kind}": run.read_result(objective, kind, start, start + count)
            for objective in run.results
            for kind in kinds
        }
        if run.has_pictures:
            read["image"] = run.read("image", start, start + count)
        statuses = unit.results[run.results[0]]["status"][:count].tolist()
        readable = [
            row for row, code in enumerate(statuses) if run.status_name(code) != "unreadable"
        ]

        def draw_one(row: int) -> tuple[str, dict[str, Any]]:
            self._storage.check()
            masks = {objective: logits[row] for objective, logits in unit.masks.items()}
            return self._draw(
                unit.indices[row], masks, {name: of[row] for name, of in read.items()}
            )

        # Encoding releases the interpreter lock, so several threads are faster.
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            return dict(zip(readable, pool.map(draw_one, readable), strict=True))

    def _draw(
        self, index: int, masks: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]
    ) -> tuple[str, dict[str, Any]]:
        """Draws an example from its records; returns the place of its picture and its details."""
        objectives, photo = self._run.results, values.get("image")
        maps = {
            objective: pictures.map_importance(
                logits, objective, photo, self._run.settings.mask_law
            )
            for objective, logits in masks.items()
            if not np.isnan(logits).any()
        }
        outlines = {objective: pictures.trace_outline(drawn) for objective, drawn in maps.items()}
        details: dict[str, Any] = {}
        for objective in objectives:
            trace = values[f"{objective}_trace"]
            taken = trace[: values.get(f"{objective}_steps")]
            details[f"{objective}_trace"], details[f"{objective}_steps"] = _thin(taken), len(taken)
            details[f"{objective}_top"] = _top(*(values[f"{objective}_{name}"] for name in TOP))
            details[f"{objective}_outline"] = outlines.get(objective, "")
            details[f"{objective}_cells"] = _count_cells(masks[objective])
        return self._write(index, photo, maps, values), details

    def _write(
        self,
        index: int,
        photo: np.ndarray | None,
        maps: Mapping[str, np.ndarray],
        values: Mapping[str, np.ndarray],
    ) -> str:
        """Writes the pictures of an example; returns their place, "" if there are none."""
        if photo is None and not maps:
            return ""
        some = photo if photo is not None else next(iter(maps.values()))
        nothing = np.full((*some.shape[:2], 3), _GREY, np.uint8)
        tiles = []
        for name in self.tiles:
            objective, _, kind = name.partition("-")
            if photo is not None and name == "original":
                tiles.append(photo)
            elif objective not in maps:
                tiles.append(nothing)
            else:
                drawn = pictures.overlay(maps[objective], None)
                tiles.append(drawn if kind == "saliency" else values[f"{objective}_infilled"])
        self.map_size = (some.shape[0], some.shape[1])
        strip, self.geometry = pictures.draw_strip(tiles)
        place = f"images/{self._number}/{index // 1000}/{index}.webp"
        self._storage.write(place, pictures.encode_webp(strip))
        return place


def round_digits(value: float) -> float | None:
    """Rounds a number to five digits for JSON; returns None if it is not finite."""
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def round_for_display(value: float) -> float | None:
    """Rounds a number like `round_digits`, unless the displayed number would change.

    1.724999 is displayed as 1.72; rounded to 1.7250 first, it would be displayed as 1.73.
    """
    value = float(value)
    if not math.isfinite(value):
        return None
    tries = (float(f"{value:.{digits}g}") for digits in (_DIGITS, _MOST_DIGITS))
    return next((rounded for rounded in tries if _displayed(rounded) == _displayed(value)), value)


def _displayed(value: float) -> tuple[str, ...]:
    """Returns the displayed forms of a number: number, share, and probability of log-odds."""
    share = 50 + 50 * math.tanh(value / 2)
    return f"{value:.2f}", f"{100 * value:.1f}", f"{share:.1f}"


def _count_cells(logits: np.ndarray) -> list[int]:
    """Returns a histogram of the keep probabilities of a mask's cells; [] if no mask is learnt."""
    if np.isnan(logits).any():
        return []
    counts, _ = np.histogram(expit(logits.astype(np.float32)), _BINS, (0, 1))
    return [int(count) for count in counts]


def _top(classes: np.ndarray, before: np.ndarray, after: np.ndarray) -> list[list[float | None]]:
    """Lists the number of each class, and its probabilities before and after in-filling."""
    rows = zip(classes.tolist(), before.tolist(), after.tolist(), strict=True)
    return [[number, *map(round_for_display, of)] for number, *of in rows if number >= 0]


def _thin(trace: np.ndarray) -> list[float | None]:
    """Returns a trace of at most `_MAX_STEPS` steps, including the last step."""
    stride = -(-len(trace) // _MAX_STEPS)
    return [round_digits(value) for value in trace[::-1][::stride][::-1].tolist()]

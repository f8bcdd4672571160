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

_GREY = 128  # in the place of pictures there are none of
_THREADS = 4
_MAX_STEPS = 200  # of a trace that are drawn
_DIGITS, _MOST_DIGITS = 5, 9
_BINS = 10  # of the probabilities of cells


class Drawing:
    """Draws the examples of a run.

    Attributes:
        tiles: kinds of the pictures that lie side by side in a file, in order.
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
            By row, of those with a picture or a trace: the place of the picture, and the details.
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

        # Encoding lets other threads go on.
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            return dict(zip(readable, pool.map(draw_one, readable), strict=True))

    def _draw(
        self, index: int, masks: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]
    ) -> tuple[str, dict[str, Any]]:
        """Draws an example, of what the records hold of it; returns its place and details."""
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
        """Writes the pictures of an example; returns their place, "" where there is nothing."""
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
    """Returns a number with five digits for a file of JSON, None where it is not finite."""
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
    """Counts the cells of a mask by their probability of being kept; none where none is learnt."""
    if np.isnan(logits).any():
        return []
    counts, _ = np.histogram(expit(logits.astype(np.float32)), _BINS, (0, 1))
    return [int(count) for count in counts]


def _top(classes: np.ndarray, before: np.ndarray, after: np.ndarray) -> list[list[float | None]]:
    """Lists of each class its number and its probabilities, before and after."""
    rows = zip(classes.tolist(), before.tolist(), after.tolist(), strict=True)
    return [[number, *map(round_for_display, of)] for number, *of in rows if number >= 0]


def _thin(trace: np.ndarray) -> list[float | None]:
    """A trace with fewer steps, its last one among them."""
    stride = -(-len(trace) // _MAX_STEPS)
    return [round_digits(value) for value in trace[::-1][::stride][::-1].tolist()]

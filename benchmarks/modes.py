"""Compares modes on the same photographs: objective, area, success, evaluations.

    python benchmarks/modes.py --photos=DIR --out=FILE --modes fast paper [--num_photos=64] \
        [--size=128 --mask_size=32] [--sparsity_weight=2e-4] [--part=0/2]

The folder `--photos` contains labelled photographs. Of a fixed shuffle, the first `--num_photos`
that the classifier classifies correctly are stretched to a square and explained, SSR and SDR. Every
result is a line of `--out`, together with everything that it depends on. Existing results are not
computed again, so an interrupted run is resumed, and several processes, each with its `--part`, can
share the work. In all modes, `--sparsity_weight` is the price of a pixel at 224 x 224. At another
size the price of a pixel is scaled, so that a whole image costs the same.

Two processes with one core each (`OMP_NUM_THREADS=1 taskset -c CORE`) take 45 s per photograph of
128 x 128, for both objectives with the 2,400 evaluations of `paper`.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from cfx_jax.classifiers import Classifier, predict
from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import Source, open_source, to_floats
from cfx_jax.fido import DIRECTIONS, MODES, Explanation, Settings
from cfx_jax.metrics import bootstrap
from cfx_jax.registry import load_classifier, load_generator
from cfx_jax.runs import Images, Solver

TUNED_SIZE = 224
FIGURES = ("objective", "success_rate", "area", "evaluations")
CLASSIFIER, GENERATOR = "efficientnet_lite0", "gated_unet"


class Photograph(NamedTuple):
    """A photograph to explain, uint8 `[H, W, 3]`, with its class."""

    name: str
    pixels: np.ndarray
    label: int


def main() -> None:
    """Computes the missing explanations, then prints a table for each objective."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", required=True, help="folder of labelled photographs")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="file of results")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["fast", "paper"])
    parser.add_argument("--num_photos", type=_positive(int), default=64)
    parser.add_argument("--size", type=_positive(int), default=TUNED_SIZE, help="pixels")
    parser.add_argument("--mask_size", type=_positive(int), help="cells; else those of the mode")
    parser.add_argument("--sparsity_weight", type=_positive(float), help="else that of the mode")
    parser.add_argument("--part", type=_part, default="0/1", help="0/2 or 1/2, of two processes")
    arguments = parser.parse_args()
    settings = {mode: _settings(mode, arguments) for mode in arguments.modes}
    if any(one.mask_size > arguments.size for one in settings.values()):
        parser.error(f"a mask has more cells than {arguments.size}, take a smaller --mask_size")
    if not pathlib.Path(arguments.photos).is_dir():
        parser.error(f"--photos={arguments.photos}: no such folder")
    try:
        results = Results(arguments.out)
        source = open_source(DataConfig(source="folder", path=arguments.photos))
    except (OSError, ValueError, ConfigError) as error:
        parser.error(str(error))
    classifier = load_classifier(CLASSIFIER)
    photographs = list(_choose(source, classifier, arguments.size, arguments.num_photos))
    if not photographs:
        parser.error(f"{arguments.photos} has no image that {CLASSIFIER} gets right")
    print(f"{len(photographs)} photographs, {arguments.size} x {arguments.size}", flush=True)
    index, number = arguments.part
    for one in settings.values():
        missing = [
            photo
            for photo in photographs[index::number]
            if any(results.find(photo, one, objective) is None for objective in DIRECTIONS)
        ]
        for photo, found in _explain(missing, one, classifier):
            results.add(photo, one, found)
    for line in tables(results, photographs, settings):
        print(line)


class Results:
    """Figures of explanations in a file, one line of JSON each; several processes may append."""

    def __init__(self, path: pathlib.Path) -> None:
        """Reads the existing results.

        Raises:
            OSError: the file cannot be written.
            ValueError: a line in the file is not a result.
        """
        self._path = path
        with path.open("a"):  # Raises before the work, not after it, if the file is not writable.
            pass
        *lines, cut_off = path.read_text().split("\n")
        if cut_off:
            raise ValueError(f"the last line of {path} was cut off: remove {cut_off[:40]!r}...")
        self._figures = {}
        for line in lines:
            try:
                row = json.loads(line)
                self._figures[json.dumps(row["of"])] = row["figures"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path} has a line that is no result: {line[:40]!r}") from None

    def find(
        self, photo: Photograph, settings: Settings, objective: str
    ) -> dict[str, float] | None:
        """Returns the figures of an explanation; None if there are none yet."""
        return self._figures.get(json.dumps(_describe(photo, settings, objective)))

    def add(self, photo: Photograph, settings: Settings, found: dict[str, Explanation]) -> None:
        """Stores the figures of the explanations of one photograph, by objective."""
        lines = []
        for objective, one in found.items():
            kept = float(one.kept_area[0])
            spared = (settings.num_steps - int(one.steps[0])) * settings.num_samples
            figures = {
                "objective": float(one.objective[0]),
                "success_rate": float(one.success_rate[0]),
                "area": kept if objective == "ssr" else 1 - kept,
                "evaluations": settings.num_evaluations - spared,
            }
            of = _describe(photo, settings, objective)
            self._figures[json.dumps(of)] = figures
            lines.append(json.dumps({"of": of, "figures": figures}) + "\n")
        with self._path.open("a") as file:
            file.write("".join(lines))


def tables(
    results: Results, photographs: list[Photograph], settings: dict[str, Settings]
) -> Iterator[str]:
    """Yields means over the photographs explained in all modes, and paired differences."""
    first, *others = settings
    for objective in DIRECTIONS:
        rows = [
            [results.find(photo, one, objective) for one in settings.values()]
            for photo in photographs
        ]
        whole = [[dict(one) for one in row if one is not None] for row in rows if None not in row]
        yield f"{objective}, {len(whole)} photographs"
        for figure in FIGURES if whole else ():
            columns = np.asarray([[one[figure] for one in row] for row in whole]).T
            values = dict(zip(settings, columns, strict=True))
            for mode in settings:
                yield f"  {figure:12} {mode:8} {values[mode].mean():8.3f}"
            for mode in others:
                yield f"  {figure:12} {first} - {mode}: {bootstrap(values[first] - values[mode])}"
                if figure == "objective":
                    share = np.mean(values[first] <= values[mode] + 0.25)
                    yield f"  {first} at least as good as {mode}, within 0.25, on {share:.1%}"


def _describe(photo: Photograph, settings: Settings, objective: str) -> dict[str, Any]:
    """Returns everything that a result depends on."""
    return {
        "photo": photo.name,
        "pixels": zlib.crc32(photo.pixels.tobytes()),
        "size": len(photo.pixels),
        "label": photo.label,
        "objective": objective,
        "models": [CLASSIFIER, GENERATOR],
        "settings": dataclasses.asdict(settings) | {"relaxation": settings.relaxation.value},
    }


def _settings(mode: str, arguments: argparse.Namespace) -> Settings:
    settings = MODES[mode]
    price = arguments.sparsity_weight or settings.sparsity_weight
    if not settings.success_target:  # With a target, `penalty` scales the price itself.
        price *= (TUNED_SIZE / arguments.size) ** 2
    size = arguments.mask_size or settings.mask_size
    return dataclasses.replace(settings, sparsity_weight=price, mask_size=size)


def _choose(source: Source, classifier: Classifier, size: int, number: int) -> Iterator[Photograph]:
    """Yields the first photographs of a shuffle that are classified correctly."""
    answer = jax.jit(lambda params, pixels: predict(classifier.apply(params, to_floats(pixels))))
    for index in np.random.default_rng(0).permutation(len(source)).tolist():
        if not number:
            return
        pixels, label = source.pixels(index, (size, size, 3), "stretch"), source.label(index)
        if int(answer(classifier.params, pixels[None])[0]) == label:
            number -= 1
            yield Photograph(source.ids[index], pixels, label)


def _explain(
    photographs: list[Photograph], settings: Settings, classifier: Classifier
) -> Iterator[tuple[Photograph, dict[str, Explanation]]]:
    if not photographs:
        return
    models = classifier, load_generator(GENERATOR)
    shape = photographs[0].pixels.shape
    solver = Solver(jax.random.key(0), *models, settings, list(DIRECTIONS), shape)
    # Eight masks at once in every mode, with which two cores are used best.
    most = math.ceil(len(DIRECTIONS) * len(photographs) / solver.num_devices)
    solver.compile(min(most, max(1, 8 // settings.num_samples)))
    jobs = (
        # The key follows from the name, so that the noise of a photograph is the same in any part.
        (photo, Images(photo.pixels[None], *(np.asarray([n]) for n in (photo.label, _key(photo)))))
        for photo in photographs
    )
    yield from solver.stream(jobs)


def _key(photo: Photograph) -> int:
    return zlib.crc32(photo.name.encode())


def _positive(kind: type) -> Any:
    def positive(text: str) -> Any:
        if not (number := kind(text)) > 0:
            raise ValueError
        return number

    return positive


def _part(text: str) -> tuple[int, int]:
    index, number = map(int, text.split("/"))
    if not 0 <= index < number:
        raise argparse.ArgumentTypeError(f"{text} is no part, 0/2 is the first of two")
    return index, number


if __name__ == "__main__":
    main()

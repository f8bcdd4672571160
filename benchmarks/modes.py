"""Compares modes on photographs of the same folder: objective, evaluations, regions.

    python benchmarks/modes.py --photos=DIR --out=FILE --modes fast paper [--num_photos=64] \
        [--size=128] [--mask_size=32] [--sparsity_weight=2e-4] [--part=0/2]

Of a fixed shuffle of `--photos`, labelled photographs, the first `--num_photos` that the classifier
gets right are stretched to a square and explained, SSR and SDR. Every result is a line of `--out`,
and what is there already is not done again, so a run that was cut off goes on, and several
processes, each with its `--part`, share the work; the tables are of all lines there. All modes pay
`--sparsity_weight` for a pixel of 224 x 224, and as much for a whole image of another size.

Two cores explain a photograph of 128 x 128 with the 2,400 evaluations of `paper` in 80 s.
"""

import argparse
import dataclasses
import json
import pathlib
import zlib
from collections.abc import Iterator

import jax
import numpy as np

from cfx_jax.classifiers import Classifier, predict
from cfx_jax.config import DataConfig
from cfx_jax.data import open_source
from cfx_jax.data.images import to_floats
from cfx_jax.fido.objective import DIRECTIONS
from cfx_jax.fido.settings import MODES, Settings
from cfx_jax.metrics.statistics import bootstrap
from cfx_jax.registry import load_classifier, load_generator
from cfx_jax.runs.jobs import Images
from cfx_jax.runs.solver import Solver

TUNED_SIZE = 224
FIGURES = ("objective", "success_rate", "area", "steps")


def main() -> None:
    """Explains what is missing, then prints a table for each objective."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", required=True, help="folder of labelled photographs")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="file of results, JSON")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["fast", "paper"])
    parser.add_argument("--classifier", default="efficientnet_lite0")
    parser.add_argument("--num_photos", type=int, default=64)
    parser.add_argument("--size", type=int, default=TUNED_SIZE, help="height and width, pixels")
    parser.add_argument("--mask_size", type=int, help="cells; of the mode if not given")
    parser.add_argument("--sparsity_weight", type=float, help="lambda; of the mode if not given")
    parser.add_argument("--part", type=_part, default="0/1", help="of the photographs, 0/2 or 1/2")
    arguments = parser.parse_args()
    index, number = arguments.part
    classifier = load_classifier(arguments.classifier)
    photographs = list(_photographs(arguments, classifier))
    if not photographs:
        parser.error(f"{arguments.photos} has no image that {arguments.classifier} gets right")
    print(f"{len(photographs)} photographs, {arguments.size} x {arguments.size}", flush=True)
    photographs = photographs[index::number]
    for mode in arguments.modes:
        _explain(mode, _settings(mode, arguments), photographs, classifier, arguments.out)
    for line in tables(arguments.out, arguments.modes):
        print(line)


def tables(path: pathlib.Path, modes: list[str]) -> Iterator[str]:
    """Means over the photographs that all modes have explained, and paired differences."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in map(json.loads, path.read_text().splitlines()):
        found.setdefault((row["objective_name"], row["mode"]), {})[row["photo"]] = row
    for name in DIRECTIONS:
        by_mode = [found.get((name, mode), {}) for mode in modes]
        photos = sorted(set.intersection(*map(set, by_mode)))
        yield f"{name}, {len(photos)} photographs"
        for figure in FIGURES if photos else ():
            values = np.asarray([[rows[photo][figure] for photo in photos] for rows in by_mode])
            for mode, row in zip(modes, values, strict=True):
                yield f"  {figure:12} {mode:8} {row.mean():8.3f}"
            for mode, row in zip(modes[1:], values[1:], strict=True):
                yield f"  {figure:12} {modes[0]} - {mode}: {bootstrap(values[0] - row)}"
        if photos and len(modes) == 2:
            ours, theirs = ([rows[photo]["objective"] for photo in photos] for rows in by_mode)
            share = np.mean(np.asarray(ours) <= np.asarray(theirs) + 0.25)
            yield f"  {modes[0]} at least as good, within 0.25, on {share:.1%}"


def _part(text: str) -> tuple[int, int]:
    index, number = map(int, text.split("/"))
    if not 0 <= index < number:
        raise ValueError(f"there is no part {index} of {number}, counted from 0")
    return index, number


def _settings(mode: str, arguments: argparse.Namespace) -> Settings:
    settings = MODES[mode]
    price = arguments.sparsity_weight or settings.sparsity_weight
    if not settings.success_target:  # There prices are of 224 x 224 already.
        price *= (TUNED_SIZE / arguments.size) ** 2
    size = arguments.mask_size or settings.mask_size
    return dataclasses.replace(settings, sparsity_weight=price, mask_size=size)


def _photographs(
    arguments: argparse.Namespace, classifier: Classifier
) -> Iterator[tuple[str, np.ndarray, int]]:
    """Names, pixels and labels of those that the classifier gets right."""
    source = open_source(DataConfig(source="folder", path=arguments.photos))
    answer = jax.jit(lambda params, pixels: predict(classifier.apply(params, to_floats(pixels))))
    shape, found = (arguments.size, arguments.size, 3), 0
    for index in np.random.default_rng(0).permutation(len(source)).tolist():
        if found == arguments.num_photos:
            return
        pixels, label = source.pixels(index, shape, "stretch"), source.label(index)
        if int(answer(classifier.params, pixels[None])[0]) == label:
            found += 1
            yield source.ids[index], pixels, label


def _explain(
    mode: str,
    settings: Settings,
    photographs: list[tuple[str, np.ndarray, int]],
    classifier: Classifier,
    path: pathlib.Path,
) -> None:
    """Appends what is not there yet to the file."""
    lines = path.read_text().splitlines() if path.exists() else []
    done = {row["photo"] for row in map(json.loads, lines) if row["mode"] == mode}
    if not (missing := [photo for photo in photographs if photo[0] not in done]):
        return
    generator = load_generator("gated_unet")
    shape = missing[0][1].shape
    solver = Solver(jax.random.key(0), classifier, generator, settings, list(DIRECTIONS), shape)
    # Eight masks at once whatever the mode, which is where two cores are busiest.
    solver.compile(max(1, 8 // settings.num_samples))
    jobs = (
        # By its name, so that the noise of a photograph is the same in any part of the work.
        (name, Images(pixels[None], np.asarray([label]), np.asarray([zlib.crc32(name.encode())])))
        for name, pixels, label in missing
    )
    for name, results in solver.stream(jobs):
        rows = []
        for objective, result in results.items():
            kept = float(result.kept_area[0])
            rows.append(
                {
                    "photo": name,
                    "mode": mode,
                    "objective_name": objective,
                    "objective": float(result.objective[0]),
                    "success_rate": float(result.success_rate[0]),
                    "area": kept if objective == "ssr" else 1 - kept,
                    "steps": int(result.steps[0]),
                }
            )
        with path.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()

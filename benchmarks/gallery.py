"""Writes a gallery of synthetic explanations and opens it in a browser: sizes and times.

    python benchmarks/gallery.py [--photos=DIR] [--keep=DIR]

Measures 400 examples with photographs, from a folder or noise, and 50,000 without, as in runs of
configs/imagenet.py; of these, 2,000 are drawn and repeated. Needs the extra `browser`, and
Chromium; set CHROMIUM=/usr/bin/chromium if it is not that of Playwright.
"""

import argparse
import os
import pathlib
import resource
import tempfile
import time
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from scipy.ndimage import gaussian_filter

from cfx_jax.config import Config, ExplainConfig, ReportConfig
from cfx_jax.fido import Status
from cfx_jax.records import RecordWriter, encode_ids
from cfx_jax.report import write_gallery
from cfx_jax.runs import make_fields

SIZE, CELLS, CLASSES, UNIT, DRAWN = 224, 14, 1000, 128, 2000
# Measured in the page, as described in docs/gallery.md.
QUESTIONS = {
    "status": "status=not_preserved",
    "target, by name": "target=class+12",
    "misclassified": "predicted=wrong",
    "id": "find=0012",
    "sorted by area": "sort=kept_area&order=down",
    "sorted by target": "sort=target",
    "all at once": "status=ok&predicted=right&target=class+1&find=1&sort=entropy",
}


def main() -> None:
    """Prints a few lines for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", help="folder of images, for those with pictures")
    parser.add_argument("--keep", help="folder to leave the galleries in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(arguments.keep or scratch)
        for count, photos in ((400, load_photos(arguments.photos)), (50_000, None)):
            make_run(folder / f"run{count}", count, photos)
            print(f"{count:,} examples, {'with' if photos is not None else 'without'} photographs")
            begin, busy = time.perf_counter(), time.process_time()
            page = write_gallery([folder / f"run{count}"], folder / f"gallery{count}", DRAWN)
            seconds = time.perf_counter() - begin
            print(
                f"  written in {seconds:.1f} s, {time.process_time() - busy:.1f} s of the processor"
            )
            print(f"  {describe(folder / f'gallery{count}')}")
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
            print(f"  peak memory of the process {peak:.0f} MiB", flush=True)
            measure(page)


def load_photos(folder: str | None) -> np.ndarray:
    """Returns the photographs of a folder, or smooth noise, uint8 `[n, 224, 224, 3]`."""
    if folder:
        paths = sorted(p for p in pathlib.Path(folder).rglob("*") if p.suffix.lower() in _SUFFIXES)
        images = [Image.open(path).convert("RGB").resize((SIZE, SIZE)) for path in paths[:400]]
        return np.stack([np.asarray(image) for image in images])
    noise = np.random.default_rng(0).normal(size=(40, SIZE, SIZE, 3))
    smooth = 128 + 300 * gaussian_filter(noise, (0, 2, 2, 0))
    return np.asarray(smooth).clip(0, 255).astype(np.uint8)


_SUFFIXES = (".jpg", ".jpeg", ".png")


def make_run(workdir: pathlib.Path, count: int, photos: np.ndarray | None) -> None:
    """Writes the records of a synthetic run."""
    config = Config(explain=ExplainConfig(), report=ReportConfig(photos is not None))
    settings = config.explain.settings()
    fields = make_fields(config, ["x" * 30], (SIZE, SIZE))
    manifest = {
        "objectives": ["ssr", "sdr"],
        "status_names": [status.name.lower() for status in Status],
        "class_names": [f"class {number}, of made-up things" for number in range(CLASSES)],
        "settings": {
            "relaxation": "concrete",
            "temperature": settings.temperature,
            "num_steps": settings.num_steps,
            "num_samples": settings.num_samples,
            "sharpness": settings.sharpness,
            "success_target": settings.success_target,
        },
        "dataset": {"name": "made-up explanations", "num_examples": count},
    }
    rng = np.random.default_rng(0)
    with RecordWriter(workdir, manifest, fields, count, UNIT) as writer:
        for unit in writer.missing_units():
            start, stop = writer.unit_range(unit)
            writer.write_unit(unit, make_unit(rng, np.arange(start, stop), fields, photos))


def make_unit(
    rng: np.random.Generator, index: np.ndarray, fields: Any, photos: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Returns the values of a unit."""
    n = len(index)
    values = {f.name: np.zeros((n, *f.shape), f.dtype) for f in fields}
    values["id"] = encode_ids([f"made_up/{i:08d}.jpg" for i in index], 30)
    values["label"] = rng.integers(0, CLASSES, n, np.int32)
    values["target"] = values["label"].copy()
    values["prediction"] = np.where(
        rng.random(n) < 0.8, values["label"], rng.integers(0, CLASSES, n)
    ).astype(np.int32)
    for objective in ("ssr", "sdr"):
        noise = rng.normal(size=(n, CELLS, CELLS))
        logits = np.asarray(40 * gaussian_filter(noise, (0, 1.5, 1.5)))
        values[f"{objective}_mask_logits"] = logits.astype(np.float16)
        values[f"{objective}_status"] = np.asarray(rng.choice([0, 0, 0, 1, 2, 3, 6], n), np.int8)
        trace = values[f"{objective}_trace"]
        trace[:] = rng.normal(size=trace.shape)
        for name in ("log_odds_original", "log_odds_infilled", "objective"):
            values[f"{objective}_{name}"] = rng.normal(size=n).astype(np.float32)
        for name in ("kept_area", "success_rate"):
            values[f"{objective}_{name}"] = rng.random(n, np.float32)
        if photos is not None:
            values["image"] = photos[index % len(photos)]
            blurred = gaussian_filter(values["image"].astype(np.float32), (0, 6, 6, 0))
            keep = logits.repeat(16, 1).repeat(16, 2)[..., None] > 0
            filled = np.where(keep == (objective == "ssr"), values["image"], blurred)
            values[f"{objective}_infilled"] = filled.astype(np.uint8)
    return values


def describe(folder: pathlib.Path) -> str:
    """Returns the sizes of the parts of a gallery."""
    sizes = {"data/0/rows": 0, "data/0/details": 0, "images": 0, "": 0}
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        name = path.relative_to(folder).as_posix()
        sizes[next(start for start in sizes if name.startswith(start))] += path.stat().st_size
    rows, details, images, rest = (size / 1e6 for size in sizes.values())
    return (
        f"rows {rows:.1f} MB, details {details:.1f} MB, pictures {images:.1f} MB, page "
        f"{rest:.2f} MB, {len(files):,} files"
    )


def measure(page: str) -> None:
    """Opens a gallery as a file and times its views."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM"))
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        address = pathlib.Path(page).absolute().as_uri()
        tab.goto(address)
        tab.wait_for_selector("#gallery a", state="visible")
        shown = tab.evaluate("performance.now()")
        print(f"  first view after {shown:.0f} ms")
        for words, view in QUESTIONS.items():
            print(f"  {words}: {ask(tab, address, view)}", flush=True)
        tab.goto(f"{address}#")
        print(f"  scrolled to the end: {tab.evaluate(_SCROLL):.0f} ms per step")
        browser.close()


def ask(tab: Page, address: str, view: str) -> str:
    """Opens a view; returns the time until it is displayed, and its text."""
    took = tab.evaluate(_ASK, view)
    return f"{took:.0f} ms, {tab.inner_text('.summary')}"


_ASK = """view => new Promise((resolve) => {
  const begin = performance.now();
  addEventListener("hashchange", () => requestAnimationFrame(() =>
    setTimeout(() => resolve(performance.now() - begin))), { once: true });
  location.hash = view;
})"""
_SCROLL = """async () => {
  const scroller = document.querySelector(".scroller"), steps = 40;
  const begin = performance.now();
  for (let step = 1; step <= steps; step++) {
    scroller.scrollTop = (scroller.scrollHeight * step) / steps;
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
  }
  return (performance.now() - begin) / steps;
}"""


if __name__ == "__main__":
    main()

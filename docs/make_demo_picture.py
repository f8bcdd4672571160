"""Puts the pictures of a finished demo side by side, as the README shows them.

python docs/make_demo_picture.py runs/demo docs/images/demo.jpg
"""

import pathlib
import sys

from PIL import Image

KINDS = ("original", "ssr-saliency", "ssr-infilled", "sdr-saliency", "sdr-infilled")
GAP = 4


def main(run: str, target: str) -> None:
    """Reads `run/report/images` and writes `target`, one row an example."""
    folder = pathlib.Path(run) / "report" / "images"
    rows = [
        [Image.open(original.with_name(original.name.replace("original", kind))) for kind in KINDS]
        for original in sorted(folder.glob("*-original.png"))
    ]
    if not rows:
        sys.exit(f"no pictures in {folder}; run python -m cfx_jax.main --workdir={run} first")
    width, height = rows[0][0].size
    size = (len(KINDS) * (width + GAP) - GAP, len(rows) * (height + GAP) - GAP)
    sheet = Image.new("RGB", size, "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * (width + GAP), y * (height + GAP)))
    sheet.save(target, quality=88)


if __name__ == "__main__":
    main(*sys.argv[1:])

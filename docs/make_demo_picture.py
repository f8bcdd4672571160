"""Writes the pictures of a finished demo side by side, for the README.

python docs/make_demo_picture.py runs/demo docs/images/demo.jpg
"""

import sys

from PIL import Image

from cfx_jax.report import pictures
from cfx_jax.runs import Explanations


def main(workdir: str, target: str) -> None:
    """Reads the records in `workdir` and writes the picture `target`, one row per example."""
    run = Explanations(workdir)
    rows = []
    for index in run.complete.nonzero()[0].tolist():
        photo = run.read("image", index, index + 1)[0]
        row = [photo]
        for objective in run.objectives:
            logits = run.read_result(objective, "mask_logits", index, index + 1)[0]
            row.append(pictures.draw_saliency(logits, objective, photo, run.settings.mask_law))
            row.append(run.read_result(objective, "infilled", index, index + 1)[0])
        rows.append([picture / 255 for picture in row])
    Image.fromarray(pictures.draw_sheet(rows)).save(target, quality=88)


if __name__ == "__main__":
    main(*sys.argv[1:])

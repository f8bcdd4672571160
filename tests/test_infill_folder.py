"""The command that in-fills a folder, in a process of its own."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]


def call(folder, *arguments):
    return subprocess.run(
        [
            sys.executable, "-m", "cfx_jax.infill_folder", f"--images={folder}/images",
            f"--masks={folder}/masks", f"--output={folder}/output", *arguments,
        ],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Two images with masks, one in a folder of its own; three that cannot be filled."""
    rng = np.random.default_rng(0)
    for name in ("images/sub", "masks/sub"):
        (tmp_path / name).mkdir(parents=True)
    for name, size, mask_size in (
        ("a", (40, 30), (40, 30)),
        ("sub/b", (33, 47), (33, 47)),
        ("size", (32, 32), (32, 31)),
        ("maskless", (32, 32), None),
    ):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
        if mask_size:
            mask = np.full(mask_size, 255, np.uint8)
            mask[:10] = 0
            Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    return tmp_path


def test_holes_are_filled_and_what_cannot_be_is_told(folder):
    process = call(folder, "--generator=grey")
    assert process.returncode == 0, process.stderr
    for name in ("a", "sub/b"):
        image = np.asarray(Image.open(folder / "images" / f"{name}.png"))
        infilled = np.asarray(Image.open(folder / "output" / "infilled" / f"{name}.png"))
        np.testing.assert_array_equal(infilled[10:], image[10:])
        np.testing.assert_array_equal(infilled[:10], np.full_like(image[:10], (124, 116, 104)))
        Image.open(folder / "output" / "sheets" / f"{name}.png").load()
    skipped = process.stderr.splitlines()
    assert len(skipped) == 3
    assert skipped[0].startswith("warning: skipped: broken.png: UnidentifiedImageError")
    assert "maskless.png" in skipped[1]
    assert "size.png: mask has shape (1, 32, 31, 1); expected" in skipped[2]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--generator=magic", "error: unknown generator 'magic'; known are blur"),
        ("--images=/nowhere", "no image folder at '/nowhere'"),
        ("--nothing", "Unknown command line flag 'nothing'"),
    ],
)
def test_user_errors_have_no_traceback(folder, argument, expected):
    process = call(folder, argument)
    assert process.returncode == 2
    assert expected in process.stderr
    assert "Traceback" not in process.stderr

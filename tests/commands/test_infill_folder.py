"""The command that in-fills a folder, in a separate process."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cfx_jax.commands.infill_folder import infill_folder
from cfx_jax.config import ConfigError
from cfx_jax.registry import load_generator

ROOT = pathlib.Path(__file__).parents[2]


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
    """Two images with masks, one in a sub-folder; three that cannot be filled."""
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


def test_infill_folder_fills_holes_and_reports_failures(folder):
    process = call(folder, "--generator=grey")
    assert process.returncode == 1, process.stderr
    for name in ("a", "sub/b"):
        image = np.asarray(Image.open(folder / "images" / f"{name}.png"))
        infilled = np.asarray(Image.open(folder / "output" / "infilled" / f"{name}.png"))
        np.testing.assert_array_equal(infilled[10:], image[10:])
        np.testing.assert_array_equal(infilled[:10], np.full_like(image[:10], (124, 116, 104)))
        Image.open(folder / "output" / "sheets" / f"{name}.png").load()
    summary, *skipped = process.stderr.splitlines()
    assert summary == "5 images; 0 files not read"
    assert len(skipped) == 3
    assert skipped[0].startswith("warning: skipped: broken.png: UnidentifiedImageError")
    assert "maskless.png" in skipped[1]
    assert "size.png: mask has shape (1, 32, 31, 1); expected" in skipped[2]


def save_mask(folder, mask):
    mask.save(folder / "masks" / "a.png")


def infill(folder, name="a.png"):
    """Fills one image of white with grey; returns which pixels stay white, or what was wrong."""
    for inside in ("images", "masks"):
        (folder / inside).mkdir(exist_ok=True)
    Image.new("RGB", (6, 4), "white").save(folder / "images" / name)
    skipped = infill_folder(
        load_generator("grey"), folder / "images", folder / "masks", folder / "output"
    )
    if skipped:
        return skipped[0]
    return np.asarray(Image.open(folder / "output" / "infilled" / "a.png"))[..., 0]


HALF = np.tile(np.arange(6) >= 3, (4, 1))


def palette(values, colours):
    image = Image.fromarray(values.astype(np.uint8)).convert("P")
    image.putpalette(colours)
    return image


@pytest.mark.parametrize(
    "mask",
    [
        Image.fromarray(HALF * np.uint8(255)),
        Image.fromarray(HALF * np.uint8(1)),
        Image.fromarray(HALF * np.uint8(7)),
        Image.fromarray(HALF * np.uint8(127) + np.uint8(1)),
        Image.fromarray(HALF),
        palette(HALF, [0, 0, 0, 128, 0, 0]),
        Image.fromarray(HALF * np.uint8(255)).convert("RGB"),
    ],
    ids=["255", "1", "7", "1 and 128", "bits", "palette", "rgb"],
)
def test_infill_folder_mask_of_two_values_keeps_the_larger(tmp_path, mask):
    (tmp_path / "masks").mkdir()
    save_mask(tmp_path, mask)
    np.testing.assert_array_equal(infill(tmp_path), np.where(HALF, 255, 124))


@pytest.mark.parametrize(("value", "expected"), [(0, 124), (1, 255), (255, 255)])
def test_infill_folder_mask_of_one_value_is_black_or_white(tmp_path, value, expected):
    (tmp_path / "masks").mkdir()
    save_mask(tmp_path, Image.new("L", (6, 4), value))
    np.testing.assert_array_equal(infill(tmp_path), expected)


def test_infill_folder_grey_mask_values_blend(tmp_path):
    (tmp_path / "masks").mkdir()
    save_mask(tmp_path, Image.fromarray(np.tile(np.uint8([0, 51, 102, 153, 204, 255]), (4, 1))))
    between = np.linspace(124, 255, 6)
    np.testing.assert_allclose(infill(tmp_path)[0], between, atol=1)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (Image.new("L", (6, 4), 2), "1 values from 2 to 2; expected two, white = keep"),
        (Image.fromarray(HALF + np.tile(np.arange(6, dtype=np.uint8), (4, 1))), "6 values from 0"),
        (Image.fromarray(HALF * np.uint8(255)).convert("LA"), "it has an alpha channel"),
        (Image.fromarray(HALF * np.uint16(1)), "it has 16 bits or more a pixel"),
    ],
    ids=["one grey", "labels", "alpha", "16 bits"],
)
def test_infill_folder_skips_and_reports_invalid_masks(tmp_path, mask, expected):
    (tmp_path / "masks").mkdir()
    save_mask(tmp_path, mask)
    assert expected in infill(tmp_path)
    assert not list(tmp_path.rglob("output/*/*.png"))


def test_infill_folder_overwrites_no_output(tmp_path):
    (tmp_path / "masks").mkdir()
    save_mask(tmp_path, Image.new("L", (6, 4), 255))
    infill(tmp_path)
    with pytest.raises(ConfigError, match=r"^a\.bmp and a\.png would both be written to a\.png"):
        infill(tmp_path, "a.bmp")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--generator=magic", "error: unknown generator 'magic'; known are blur"),
        ("--images=/nowhere", "no image folder at '/nowhere'"),
        ("--nothing", "Unknown command line flag 'nothing'"),
    ],
)
def test_infill_folder_user_errors_have_no_traceback(folder, argument, expected):
    process = call(folder, argument)
    assert process.returncode == 2
    assert expected in process.stderr
    assert "Traceback" not in process.stderr

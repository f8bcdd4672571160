"""The pixels that a region may contain: one picture for all images, or one for each."""

import numpy as np
import pytest
from PIL import Image

from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import UnreadableImageError, load_units, open_source


@pytest.fixture
def folder(tmp_path):
    """Two pictures of 12 x 16 pixels, one of them in a sub-folder, and their masks."""
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    (tmp_path / "masks" / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.jpg"):
        Image.new("RGB", (16, 12), "grey").save(tmp_path / "photos" / name)
    mask = np.zeros((12, 16), np.uint8)
    mask[:, 8:] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    Image.fromarray(255 - mask).convert("RGB").save(tmp_path / "masks" / "sub" / "b.bmp")
    return tmp_path


def open_photos(folder, allowed, **data):
    return open_source(DataConfig("folder", str(folder / "photos"), allowed=str(allowed), **data))


def test_allowed_of_a_folder_is_the_picture_of_each_image(folder):
    source = open_photos(folder, folder / "masks")
    right = np.broadcast_to(np.arange(8) >= 4, (6, 8))
    np.testing.assert_array_equal(source.allowed(0, (6, 8), "stretch"), right)
    np.testing.assert_array_equal(source.allowed(1, (6, 8), "stretch"), ~right)


def test_allowed_is_cropped_as_the_image_is(folder):
    source = open_photos(folder, folder / "masks")
    # Of 16 columns the crop keeps the central 12, of which the right half is allowed.
    right = np.broadcast_to(np.arange(12) >= 6, (12, 12))
    np.testing.assert_array_equal(source.allowed(0, (12, 12), "cover"), right)


def test_allowed_of_a_file_is_the_same_for_all_images(folder):
    source = open_photos(folder, folder / "masks" / "a.png")
    np.testing.assert_array_equal(*(source.allowed(n, (6, 8), "stretch") for n in (0, 1)))


def test_load_units_returns_the_allowed_pixels(folder):
    source = open_photos(folder, folder / "masks")
    (examples,) = load_units(source, [(0, range(2))], (6, 8, 3), "stretch")
    assert examples.allowed.shape == (2, 6, 8)
    assert examples.allowed[0].sum() == examples.allowed[1].sum() == 24
    (without,) = load_units(open_photos(folder, ""), [(0, range(2))], (6, 8, 3), "stretch")
    assert without.allowed is None


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: Image.new("L", (8, 6), 255).save(path), "8 x 6 pixels, the image 16 x 12"),
        (lambda path: path.write_bytes(b"none"), "cannot identify image file"),
    ],
)
def test_load_units_names_an_image_whose_allowed_pixels_cannot_be_used(folder, make, problem):
    make(folder / "masks" / "a.png")
    source = open_photos(folder, folder / "masks")
    (examples,) = load_units(source, [(0, range(2))], (6, 8, 3), "stretch")
    assert examples.readable.tolist() == [1]
    assert examples.problems[0].startswith("a.jpg, its allowed pixels: ")
    assert problem in examples.problems[0]


def test_digest_changes_with_the_allowed_pixels(folder):
    before = open_photos(folder, folder / "masks").digest(0)
    assert before == open_photos(folder, folder / "masks").digest(0)
    assert before != open_photos(folder, "").digest(0)
    Image.new("L", (16, 12), 255).save(folder / "masks" / "a.png")
    assert before != open_photos(folder, folder / "masks").digest(0)


def test_open_source_rejects_missing_or_ambiguous_allowed_pixels(folder):
    with pytest.raises(ConfigError, match=r"data\.allowed: no picture or folder at '.*nowhere'"):
        open_photos(folder, folder / "nowhere")
    (folder / "masks" / "a.bmp").write_bytes((folder / "masks" / "sub" / "b.bmp").read_bytes())
    with pytest.raises(ConfigError, match=r"both a\.bmp and a\.png; expected one"):
        open_photos(folder, folder / "masks")
    (folder / "masks" / "a.bmp").unlink()
    (folder / "masks" / "a.png").unlink()
    with pytest.raises(ConfigError, match=r"no picture for 1 of 2 images; .* example, a\.png"):
        open_photos(folder, folder / "masks")


def test_allowed_refuses_a_cut_out(folder):
    """The transparent pixels of a picture that shows only the object would be white: allowed."""
    cut = Image.new("RGBA", (16, 12), (0, 0, 0, 0))
    cut.paste((200, 0, 0, 255), (0, 0, 8, 12))
    cut.save(folder / "cut.png")
    source = open_photos(folder, folder / "cut.png")
    with pytest.raises(UnreadableImageError, match="transparent pixels, which could mean either"):
        source.allowed(0, (6, 8), "stretch")

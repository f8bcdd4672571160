"""Boxes that cannot be pixels of their image are refused, or give a warning."""

import numpy as np
import pytest
from PIL import Image

from cfx_jax.classifiers import Classifier
from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import open_source
from cfx_jax.evaluate._boxes import find_boxes


@pytest.fixture
def find(tmp_path):
    """`(boxes of each image, resize) -> boxes found`, of images 40 pixels wide and 20 high."""

    def find_in_images(rows, resize="stretch"):
        lines = ["file,boxes"]
        for number, boxes in enumerate(rows):
            Image.new("RGB", (40, 20)).save(tmp_path / f"{number}.png")
            lines.append(f"{number}.png,{boxes}")
        (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
        classifier = Classifier((), lambda params, images: images.mean((1, 2)), image_size=(10, 10))
        source = open_source(DataConfig(source="folder", path=str(tmp_path)), classifier)
        return find_boxes(source, range(len(rows)), (10, 10), resize)

    return find_in_images


@pytest.mark.parametrize("resize", ["stretch", "cover", "crop"])
@pytest.mark.parametrize(
    "rows",
    [
        ["0 0 40 20"],
        ["-5 -5 45 25"],
        ["-19 4 59 16"],
        # A crop cuts them off.
        ["0 0 2 20", "38 0 40 20"],
        ["0 0 1 1", "0 0 2 2"],
        ["", ""],
    ],
)
def test_boxes_in_pixels_are_accepted(find, rows, resize, caplog):
    assert len(find(rows, resize)) == len(rows)
    assert not caplog.records


def test_boxes_move_with_the_image(find):
    first, second = find(["4 2 8 4; 0 0 40 20", ""])
    np.testing.assert_allclose(first, [[1, 1, 2, 2], [0, 0, 10, 10]], rtol=1e-6)
    assert second.shape == (0, 4)


@pytest.mark.parametrize(
    ("rows", "number", "first"),
    [
        (["40 0 60 20"], 1, "0.png"),
        (["0 0 9 9", "0 25 10 30"], 1, "1.png"),
        (["0 0 9 9; -9 0 -1 9", "-9 -9 0 9"], 2, "0.png"),
        (["0 0 200 20"], 1, "0.png"),
        (["0 -11 9 9"], 1, "0.png"),
        # An empty box, which other formats use for "no box".
        (["0 0 0 0"], 1, "0.png"),
        (["0.1 0.1 0.9 0.9", "100 100 200 200"], 1, "1.png"),
    ],
)
def test_boxes_beyond_the_image_are_warned_of_once(find, rows, number, first, caplog):
    find(rows)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    message = record.getMessage()
    assert message.startswith(f"boxes of {number} images lie outside of the image or reach far ")
    assert f"the first is '{first}' with [[" in message


@pytest.mark.parametrize("rows", [["0.1 0.1 0.9 0.9"], ["", "0 0 1 1", "0.2 0 0.5 0.25"]])
def test_boxes_in_fractions_of_the_image_are_refused(find, rows):
    with pytest.raises(ConfigError, match=r"\.png' has the box .* in pixels: these look like shar"):
        find(rows)

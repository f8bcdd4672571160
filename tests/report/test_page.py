"""The page of a run: it is whole, says what the records hold and escapes what it is told."""

import html.parser
import pathlib
import re

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cfx_jax.config import Config, ExplainConfig, ReportConfig
from cfx_jax.records import Field, RecordsError, RecordWriter, encode_ids
from cfx_jax.report import page as report
from cfx_jax.report import pictures
from cfx_jax.runs.explanations import SCALARS, make_fields

STATUS_NAMES = ["ok", "misclassified", "not_flipped", "not_preserved", "non_finite", "unreadable"]
HOSTILE = "<script>alert('1')</script>\"&<b>"
IDS = ["cat.png", f"{HOSTILE}.png", "broken.jpg", "dog.png", "late.png"]
SETTINGS = {"num_steps": 20, "num_samples": 4, "relaxation": "concrete", "temperature": 0.4}
SIZE, UNREADABLE, LATE = 32, 2, 4


def manifest(**changes):
    return {
        "config": {
            "seed": 7,
            "explain": {"mode": "fast", "num_steps": None},
        },
        "settings": SETTINGS,
        "classifier": {"name": HOSTILE},
        "class_names": ["cat", f"dog {HOSTILE}"],
        "dataset": {"name": f"set {HOSTILE}", "num_examples": len(IDS)},
        "objectives": ["ssr", "sdr"],
        "environment": {"jax": HOSTILE},
        "status_names": STATUS_NAMES,
    } | changes


def example(index, layout):
    """An example's content: the left half of the mask is kept, the right half in-filled."""
    values = {field.name: np.zeros((1, *field.shape), field.dtype) for field in layout}
    values["id"] = encode_ids([IDS[index]], 64)
    values["label"][:] = -1 if index == 3 else index % 2
    values["target"][:] = values["prediction"][:] = index % 2
    for name in ("ssr", "sdr"):
        if f"{name}_status" not in values:
            continue
        scalars = (np.log(3), 0.0, 0.25 + index / 100, 0.875, -1.5)
        logits = [20, 20, -20, -20]
        if index == UNREADABLE:
            values[f"{name}_status"][:] = STATUS_NAMES.index("unreadable")
            scalars, logits = [np.nan] * 5, np.nan
            values["target"][:] = values["prediction"][:] = -1
        for scalar, value in zip(SCALARS, scalars, strict=True):
            values[f"{name}_{scalar}"][:] = value
        values[f"{name}_mask_logits"][:] = logits
        values[f"{name}_trace"][:] = np.linspace(1, -1.5, 20)
    if "image" in values:
        values["image"][:] = 100
    return values


def make_run(workdir, change=None, pictures=True, computed=range(4), **manifest_changes):
    content = manifest(**manifest_changes)
    objective = "both" if len(content["objectives"]) == 2 else "ssr"
    explain = ExplainConfig(objective, num_steps=20, mask_size=4)
    config = Config(explain=explain, report=ReportConfig(pictures))
    layout = make_fields(config, ["e" * 64], (SIZE, SIZE))
    writer = RecordWriter(workdir, content, layout, len(IDS), unit_size=1)
    for index in computed:
        values = example(index, layout)
        if change is not None:
            change(index, values)
        writer.write_unit(index, values)
    return workdir


class Page(html.parser.HTMLParser):
    """What a browser would find on the page."""

    def __init__(self, path):
        super().__init__()
        self.path = pathlib.Path(path)
        self.source = self.path.read_text("utf-8")
        self.tags, self.links, self.images, self.anchors, self.rows = set(), [], [], [], []
        self.texts = {None: ""}  # text of each <section>, and of the page outside them
        self.section, self.in_row = None, False
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.add(tag)
        self.links += [attrs[name] for name in ("src", "href") if name in attrs]
        self.anchors += [attrs["id"]] if "id" in attrs else []
        if tag == "img":
            self.images.append(attrs)
        if tag == "section":
            self.section = attrs["id"]
            self.texts[self.section] = ""
        if tag == "tr":
            self.rows.append("")
            self.in_row = True
        if tag in ("td", "th", "dt", "dd"):
            self.handle_data(" ")

    def handle_endtag(self, tag):
        if tag == "section":
            self.section = None
        if tag == "tr":
            self.rows[-1] = " ".join(self.rows[-1].split())
            self.in_row = False

    def handle_data(self, data):
        self.texts[self.section] += data
        if self.in_row:
            self.rows[-1] += data

    def text(self, section=None):
        """Text of a section, or of all that is in none, with single spaces."""
        return " ".join(self.texts[section].split())

    def pictures(self, index):
        """Kinds of the pictures of an example."""
        names = [re.fullmatch(rf"images/{index:06d}-(.*)\.png", link) for link in self.links]
        return [match[1] for match in names if match]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return Page(report.write_report(make_run(tmp_path_factory.mktemp("run"))))


def test_page_is_in_the_run_and_leaves_nothing_behind(page):
    assert page.path.parts[-2:] == ("report", "index.html")
    assert (page.path.parents[1] / "manifest.json").exists()
    files = {path.relative_to(page.path.parent) for path in page.path.parent.rglob("*.*")}
    assert files == {pathlib.Path("index.html"), *map(pathlib.Path, page.links)} - {
        pathlib.Path(link) for link in page.links if link.startswith("#")
    }


def test_links_resolve_and_stay_in_the_folder(page):
    assert len(page.links) == len(page.images) + 4
    for link in page.links:
        if link.startswith("#"):
            assert page.anchors.count(link[1:]) == 1
        else:
            assert (page.path.parent / link).resolve().is_relative_to(page.path.parent)
            assert (page.path.parent / link).is_file()
    for forbidden in ("http", "//", "@import", "url("):
        assert forbidden not in page.source


def test_pictures_have_sizes_and_alternative_texts(page):
    assert page.pictures(0) == [
        "original", "ssr-saliency", "ssr-infilled", "sdr-saliency", "sdr-infilled", "trace"
    ]  # fmt: skip
    alts = [attrs["alt"] for attrs in page.images]
    assert all(alts)
    assert len(set(alts)) == len(alts)
    for attrs in page.images:
        with Image.open(page.path.parent / attrs["src"]) as image:
            image.load()
            if "trace" not in attrs["src"]:
                assert image.size == (int(attrs["width"]), int(attrs["height"]))
                assert "scale" in attrs["src"] or image.size == (SIZE, SIZE)


def test_texts_are_escaped(page):
    assert not {"script", "b"} & page.tags
    assert f"Explanations: set {HOSTILE}" in page.text()
    section = page.text("example-1")
    assert f"Target: dog {HOSTILE} (1)" in section
    assert f"example 1: {IDS[1]}" in section
    assert page.text().count(HOSTILE) >= 5  # title, heading, settings, environment, table


def test_numbers_and_names(page):
    section = page.text("example-0")
    for text in (
        "Target: cat (0)",
        "Predicted: cat (0) · label: cat (0) · example 0: cat.png",
        "Target before 75.0 % (+1.10)",
        "Target after 50.0 % (+0.00)",
        "Area kept 25.0 %",
        "Masks that agree 87.5 %",
        "Objective -1.50",
    ):
        assert text in section
    assert "label: not known" in page.text("example-3")
    for text in ("Mode fast", "Steps 20", "Seed 7", "Computed 4 of 5 examples"):
        assert text in page.text()
    assert "Samples a step" not in page.source, "the mode's own value is not in the config"
    assert "Not computed yet 1" in page.text()


def test_unreadable_example_has_a_section_without_pictures(page):
    assert page.text("example-2") == (
        "broken.jpg ! unreadable: the image could not be decoded, so there is nothing to show."
    )
    assert page.pictures(UNREADABLE) == []
    assert "example-4" not in page.anchors


def test_failures_are_counted_and_come_first(tmp_path):
    def change(index, values):
        if index == 3:
            values["ssr_status"][:] = STATUS_NAMES.index("not_preserved")
            values["sdr_status"][:] = 9

    page = Page(report.write_report(make_run(tmp_path, change)))
    rows = page.rows
    assert "✓ ok 2 2 most masks drawn do what was asked of them" in rows
    assert (
        "! not preserved 1 0 most in-filled images are no longer classified as the target" in rows
    )
    assert "! unreadable 1 1 the image could not be decoded" in rows
    assert "! unknown status 9 0 1" in rows
    listed = [row for row in rows if ".png" in row or ".jpg" in row]
    assert [row[0] for row in listed] == ["2", "3", "0", "1"]
    assert "not preserved 28.0 %" in listed[1]


def test_saliency_is_bright_where_it_matters(page):
    colormap = matplotlib.colormaps["inferno"]
    for objective, (left, right) in {"ssr": (1.0, 0.0), "sdr": (0.0, 1.0)}.items():
        with Image.open(page.path.parent / "images" / f"000000-{objective}-saliency.png") as image:
            pixels = np.asarray(image)
        share = pictures._COLOR_SHARE
        for column, value in ((0, left), (-1, right)):
            color = 255 * share * np.array(colormap(value)[:3]) + 100 * (1 - share)
            assert np.abs(pixels[:, column] - color).max() <= 1


def test_the_page_takes_the_blocks_from_the_manifest(tmp_path):
    def picture(name, **settings):
        page = report.write_report(
            make_run(tmp_path / name, computed=[0], settings=SETTINGS | settings)
        )
        with Image.open(pathlib.Path(page).parent / "images" / "000000-ssr-saliency.png") as image:
            return np.asarray(image).astype(int)

    pixels, blocks, unnamed = picture("1", block_size=1), picture("3", block_size=3), picture("0")
    np.testing.assert_array_equal(pixels, unnamed)
    assert np.abs(pixels - blocks).max() > 10


def test_run_without_pictures_shows_the_saliency_alone(tmp_path):
    page = Page(report.write_report(make_run(tmp_path, pictures=False, objectives=["ssr"])))
    assert page.pictures(0) == ["ssr-saliency", "trace"]
    with Image.open(page.path.parent / "images" / "000000-ssr-saliency.png") as image:
        assert image.size == (224, 224)
    assert "SDR" not in page.source


def test_results_that_are_not_finite_have_no_pictures(tmp_path):
    def change(index, values):
        values["sdr_status"][:] = STATUS_NAMES.index("non_finite")
        for name in ("log_odds_infilled", "kept_area", "mask_logits", "trace"):
            values[f"sdr_{name}"][:] = np.nan
        if index == 1:
            values["ssr_trace"][:] = np.nan
            values["ssr_trace"][:, 0] = np.inf

    page = Page(report.write_report(make_run(tmp_path, change, computed=[0, 1])))
    assert page.pictures(0) == ["original", "ssr-saliency", "ssr-infilled", "trace"]
    assert page.pictures(1) == ["original", "ssr-saliency", "ssr-infilled"]
    assert "! non finite" in page.text("example-0")
    assert "Target after 50.0 % (+0.00) n/a" in page.text("example-0")


@pytest.mark.parametrize(("max_images", "shown"), [(0, 0), (2, 2), (4, 4), (9, 4)])
def test_max_images(tmp_path, max_images, shown):
    page = Page(report.write_report(make_run(tmp_path), max_images))
    assert page.anchors == [f"example-{index}" for index in range(shown)]
    said = f"Pictures are shown of the first {shown} of 4 computed examples" in page.text()
    assert said == (shown < 4)
    for name in IDS[:4]:
        assert name in page.text(), "the table has every computed example"


def test_page_of_a_run_that_has_not_begun_is_replaced_later(tmp_path):
    page = Page(report.write_report(make_run(tmp_path, computed=[])))
    assert "No example is computed yet." in page.text()
    make_run(tmp_path, computed=[3])
    page = Page(report.write_report(tmp_path))
    assert page.anchors == ["example-3"]


def test_absent_names(tmp_path):
    page = Page(report.write_report(make_run(tmp_path, class_names=None, config={}, dataset={})))
    assert "Target: class 1" in page.text("example-1")
    assert "Explanations: a run" in page.text()


def test_unusable_input(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no manifest\.json"):
        report.write_report(tmp_path)
    make_run(tmp_path / "run")
    with pytest.raises(ValueError, match="max_images is -1; expected 0 or more"):
        report.write_report(tmp_path / "run", -1)
    RecordWriter(tmp_path / "other", {"part": "images"}, [Field("id", "uint8", (4,))], 1, 1).close()
    with pytest.raises(RecordsError, match=r"holds records of id, \.\.\., not of explanations"):
        report.write_report(tmp_path / "other")
    assert not (tmp_path / "other" / "report").exists()


@pytest.mark.parametrize(
    ("asked", "table", "text"),
    [
        ({}, "4 of 5 images; before, after: probability (log-odds) of the class", "class on the"),
        ({"contrast": 0}, "of the class rather than cat (0)", "class rather than cat (0) on"),
        ({"contrast": 5}, "of the class rather than class 5", "class rather than class 5 on"),
        ({"top_classes": 2}, "4 of 5 examples; before, after", "target class on the original"),
    ],
)
def test_the_question_is_told_with_the_numbers(asked, table, text, tmp_path):
    make_run(tmp_path, config={"seed": 7, "explain": {"mode": "fast", "num_steps": None} | asked})
    last = report.summary(tmp_path).splitlines()[-1]
    assert table in last
    assert ("rather" in last) == ("contrast" in asked)
    report.write_report(tmp_path, max_images=0)
    html = (tmp_path / "report/index.html").read_text()
    assert text in html.replace("<bdi>", "").replace("</bdi>", "")

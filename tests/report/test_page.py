"""The gallery of a run without JavaScript: complete, equal to the records, and safely escaped."""

import dataclasses
import html.parser
import json
import logging
import pathlib
import threading
import time

import matplotlib
import numpy as np
import pytest
from PIL import Image

from cfx_jax.config import Config, ExplainConfig, ReportConfig
from cfx_jax.fido import Status
from cfx_jax.fido.settings import get_settings
from cfx_jax.records import Field, RecordsError, RecordWriter, encode_ids
from cfx_jax.report import gallery
from cfx_jax.report import page as report
from cfx_jax.runs.explanations import SCALARS, make_fields
from cfx_jax.runs.preemption import StoppedError, StopRequest

STATUS_NAMES = ["ok", "misclassified", "not_flipped", "not_preserved", "non_finite", "unreadable"]
SVG_NAMESPACE = "http://www.w3.org/2000/svg"
HOSTILE = "<script>alert('1')</script>\"&<b>"
IDS = ["cat.png", f"{HOSTILE}.png", "broken.jpg", "dog.png", "late.png"]
SETTINGS = dataclasses.asdict(get_settings("fast", num_steps=20, num_samples=4, mask_size=4)) | {
    "relaxation": "concrete"
}
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
        scalars = (np.log(3), 0.0, 0.25 + index / 100, 0.875, 0.5, -1.5)
        logits = [20, 20, -20, -20]
        if index == UNREADABLE:
            values[f"{name}_status"][:] = STATUS_NAMES.index("unreadable")
            scalars, logits = [np.nan] * 6, np.nan
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
        self.figures, self.in_caption, self.scripts, self.in_data = [], False, [], False
        self.raw = ""
        self.feed(self.source)
        self.data = json.loads(self.raw)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.add(tag)
        self.links += [attrs[name] for name in ("src", "href") if name in attrs]
        self.anchors += [attrs["id"]] if "id" in attrs else []
        if tag == "img":
            self.images.append(attrs)
        if tag == "script":
            self.scripts.append(attrs)
            self.in_data = "src" not in attrs
        if tag == "figcaption":
            self.figures.append((self.section, ""))
            self.in_caption = True
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
        self.in_caption &= tag != "figcaption"
        self.in_data &= tag != "script"
        if tag == "tr":
            self.rows[-1] = " ".join(self.rows[-1].split())
            self.in_row = False

    def handle_data(self, data):
        if self.in_data:
            self.raw += data
            return
        self.texts[self.section] += data
        if self.in_caption:
            self.figures[-1] = (self.section, self.figures[-1][1] + data)
        if self.in_row:
            self.rows[-1] += data

    def text(self, section=None):
        """Text of a section, or of all that is in none, with single spaces."""
        return " ".join(self.texts[section].split())

    def captions(self, index):
        """Returns the captions of the pictures of an example."""
        return [words for at, words in self.figures if at == f"example-{index}"]

    def tile(self, index, kind, run=0):
        """Cuts a picture of an example out of its file, as the gallery does."""
        of = self.data["runs"][run]
        with Image.open(self.path.parent / f"images/{run}/0/{index}.webp") as image:
            strip = np.asarray(image)
        height, width, pitch, before = of["geometry"]
        assert strip.shape == (height, len(of["tiles"]) * pitch, 3)
        left = of["tiles"].index(kind) * pitch + before
        return strip[:, left : left + width].astype(int)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return Page(report.write_report(make_run(tmp_path_factory.mktemp("run"))))


def test_write_report_leaves_only_the_page_in_the_run(page):
    assert page.path.parts[-2:] == ("report", "index.html")
    assert (page.path.parents[1] / "manifest.json").exists()
    folder = page.path.parent
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    assert files == {
        "index.html",
        "data/cfx_jax.txt",
        "data/0/rows-0.js",
        "data/0/details-0.js",
        *page.links,
    }


def test_page_links_resolve_and_stay_in_the_folder(page):
    assert {link for link in page.links if "/" not in link} == {
        "gallery.css", "scale.png", "model.js", "pictures.js", "list.js", "detail.js", "gallery.js"
    }  # fmt: skip
    for link in page.links:
        assert (page.path.parent / link).resolve().is_relative_to(page.path.parent)
        assert (page.path.parent / link).is_file()
    for name in ("index.html", *page.links):
        if name.endswith((".html", ".js", ".css")):
            source = (page.path.parent / name).read_text().replace(SVG_NAMESPACE, "")
            for forbidden in ("http", "@import", "url(", "innerHTML", "eval("):
                assert forbidden not in source, name


def test_page_pictures_have_alt_texts_in_one_file_per_example(page):
    assert page.captions(0) == [
        "Original", "SSR saliency", "SSR in-filled", "SDR saliency", "SDR in-filled"
    ]  # fmt: skip
    # The photograph below a map needs no text, because the original has one.
    alts = [attrs["alt"] for attrs in page.images if attrs["alt"]]
    assert len(set(alts)) == len(alts) == 3 * 5 + 1
    assert {attrs["src"] for attrs in page.images} == {
        "scale.png", *(f"images/0/0/{index}.webp" for index in (0, 1, 3))
    }  # fmt: skip
    # Small pictures are enlarged.
    assert page.tile(0, "original").shape == (4 * SIZE, 4 * SIZE, 3)


def test_page_escapes_texts(page):
    assert "b" not in page.tags
    assert ["src" in attrs for attrs in page.scripts] == [False] + 5 * [True]
    assert page.source.count("<script") == len(page.scripts) == 6
    assert f"Explanations: set {HOSTILE}" in page.text()
    section = page.text("example-1")
    assert f"Target: dog {HOSTILE} (1)" in section
    assert f"example 1: {IDS[1]}" in section
    assert page.text().count(HOSTILE) == 3  # title, heading, classifier
    assert page.data["runs"][0]["dataset"] == f"set {HOSTILE}"


def test_page_shows_numbers_and_names(page):
    section = page.text("example-0")
    for text in (
        "Target: cat (0)",
        "Predicted: cat (0) · label: cat (0) · example 0: cat.png",
        "Target before 75.0 % (+1.10)",
        "Target after 50.0 % (+0.00)",
        "Area kept 25.0 %",
        "Success rate 87.5 %",
        "Objective -1.50",
    ):
        assert text in section
    assert "label: not known" in page.text("example-3")
    for text in ("Mode fast", "Seed 7", "Computed 4 of 5 examples"):
        assert text in page.text()
    # Two objectives of 20 steps with 4 masks each; the writer took no times.
    assert "Cost 160 evaluations per image" in page.text()
    assert "Not computed yet 1" in page.text()


def test_page_unreadable_example_has_a_section_without_pictures(page):
    assert page.text("example-2") == (
        "broken.jpg ! unreadable: the image could not be decoded, so there is nothing to show."
    )
    assert page.captions(UNREADABLE) == []
    assert "example-4" not in page.anchors


def test_page_counts_and_marks_failures(tmp_path):
    def change(index, values):
        if index == 3:
            values["ssr_status"][:] = STATUS_NAMES.index("not_preserved")
            values["sdr_status"][:] = 9

    page = Page(report.write_report(make_run(tmp_path, change)))
    rows = page.rows
    assert f"✓ ok 2 2 {Status.OK.meaning}" in rows
    assert f"! not preserved 1 0 {Status.NOT_PRESERVED.meaning}" in rows
    assert f"! unreadable 1 1 {Status.UNREADABLE.meaning}" in rows
    assert "! unknown status 9 0 1" in rows
    assert "Status ! not preserved ! unknown status 9" in page.text("example-3")
    assert page.source.count('class="example failed"') == 2


def test_page_saliency_is_bright_on_the_evidence(page):
    colormap = matplotlib.colormaps["inferno"]
    for objective, (left, right) in {"ssr": (1.0, 0.0), "sdr": (0.0, 1.0)}.items():
        pixels = page.tile(0, f"{objective}-saliency")
        for column, value in ((2, left), (-3, right)):
            color = 255 * np.array(colormap(value)[:3])
            assert np.abs(pixels[:, column] - color).max() <= 8, "more than WebP costs"


def test_page_takes_the_blocks_from_the_manifest(tmp_path):
    def picture(name, **settings):
        page = report.write_report(
            make_run(tmp_path / name, computed=[0], settings=SETTINGS | settings)
        )
        return Page(page).tile(0, "ssr-saliency")

    pixels, blocks, unnamed = picture("1", block_size=1), picture("3", block_size=3), picture("0")
    np.testing.assert_array_equal(pixels, unnamed)
    assert np.abs(pixels - blocks).max() > 10


def test_page_of_a_run_without_pictures_shows_only_saliency(tmp_path):
    page = Page(report.write_report(make_run(tmp_path, pictures=False, objectives=["ssr"])))
    assert page.captions(0) == ["SSR saliency"]
    assert page.tile(0, "ssr-saliency").shape == (224, 224, 3)
    assert "SDR" not in page.source


def test_page_nonfinite_results_have_no_pictures(tmp_path):
    def change(index, values):
        values["sdr_status"][:] = STATUS_NAMES.index("non_finite")
        for name in ("log_odds_infilled", "kept_area", "mask_logits", "trace"):
            values[f"sdr_{name}"][:] = np.nan
        if index == 1:
            values["ssr_trace"][:] = np.nan
            values["ssr_trace"][:, 0] = np.inf

    page = Page(report.write_report(make_run(tmp_path, change, computed=[0, 1])))
    assert page.captions(0) == ["Original", "SSR saliency", "SSR in-filled"]
    parts = (tmp_path / "report/data/0/details-0.js").read_text()
    details = json.loads(parts.partition(",")[2].rpartition(")")[0])
    assert details["sdr_trace"] == [[None] * 20] * 2
    assert details["ssr_trace"][1] == [None] * 20
    assert details["ssr_trace"][0][::19] == [1, -1.5]
    assert [bool(path) for path in details["sdr_outline"] + details["ssr_outline"]] == [0, 0, 1, 1]
    assert details["sdr_cells"] == [[], []]
    assert details["ssr_cells"] == [[8, *[0] * 8, 8]] * 2
    assert "! non finite" in page.text("example-0")
    assert "Target after 50.0 % (+0.00) n/a" in page.text("example-0")


@pytest.mark.parametrize(("max_images", "shown"), [(0, 0), (2, 2), (4, 4), (9, 4)])
def test_write_report_max_images_limits_the_pictures(tmp_path, max_images, shown):
    page = Page(report.write_report(make_run(tmp_path), max_images))
    sections = [f"example-{index}" for index in range(4)]
    assert page.anchors == ["about", "gallery", "listed", *sections, "data"]
    assert [index for index in range(4) if page.captions(index)] == [
        index for index in range(shown) if index != UNREADABLE
    ]
    assert ("With pictures" in page.text()) == (shown < 4)
    for name in IDS[:4]:
        assert any(name in text for text in page.texts.values()), "all computed ones are listed"


def test_write_report_replaces_the_page_of_a_run_not_begun(tmp_path):
    page = Page(report.write_report(make_run(tmp_path, computed=[])))
    assert "No example is computed yet." in page.text()
    make_run(tmp_path, computed=[3])
    page = Page(report.write_report(tmp_path))
    assert "example-3" in page.anchors
    assert "example-0" not in page.anchors


def test_write_report_accepts_absent_names(tmp_path):
    page = Page(report.write_report(make_run(tmp_path, class_names=None, config={}, dataset={})))
    assert "Target: class 1" in page.text("example-1")
    assert "Explanations: a run" in page.text()


def test_write_report_refuses_unusable_input(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no manifest\.json"):
        report.write_report(tmp_path)
    make_run(tmp_path / "run")
    with pytest.raises(ValueError, match="max_images is -1; expected 0 or more"):
        report.write_report(tmp_path / "run", -1)
    RecordWriter(tmp_path / "other", {"part": "images"}, [Field("id", "uint8", (4,))], 1, 1).close()
    with pytest.raises(RecordsError, match=r"contains records of id, \.\.\., not of explan"):
        report.write_report(tmp_path / "other")
    assert not (tmp_path / "other" / "report").exists()


@pytest.mark.parametrize(
    ("options", "table", "text"),
    [
        ({}, "4 of 5 images; before, after: probability (log-odds) of the class", "class on the"),
        ({"contrast": 0}, "of the class rather than cat (0)", "class rather than cat (0) on"),
        ({"contrast": 5}, "of the class rather than class 5", "class rather than class 5 on"),
        ({"top_classes": 2}, "4 of 5 examples; before, after", "target class on the original"),
    ],
)
def test_summary_states_the_question_with_the_numbers(options, table, text, tmp_path):
    make_run(tmp_path, config={"seed": 7, "explain": {"mode": "fast", "num_steps": None} | options})
    last = report.summary(tmp_path).splitlines()[-1]
    assert table in last
    assert ("rather" in last) == ("contrast" in options)
    report.write_report(tmp_path, max_images=0)
    html = (tmp_path / "report/index.html").read_text()
    assert text in html.replace("<bdi>", "").replace("</bdi>", "")


def test_summary_marks_cut_texts_and_invisible_characters(tmp_path):
    def change(index, values):
        name = ["x" * 24 + ".png", "a\nb\x1b[31m.png", "\N{RIGHT-TO-LEFT OVERRIDE}gnp.tac", "d"][
            index
        ]
        values["id"] = encode_ids([name], 64)

    run = make_run(tmp_path, change, class_names=["c" * 40, "two\tlines\n"])
    lines = report.summary(run).splitlines()
    assert lines[2].startswith("…" + 19 * "x" + ".png  " + 27 * "c" + "… (0)  SSR")
    assert lines[4].startswith(r"a\nb\x1b[31m.png")
    assert r"two\tlines\n (1)" in lines[4]
    assert lines[6].startswith(r"\u202egnp.tac")
    assert len(lines) == 2 + 8 + 1
    assert len({line.index("SSR") for line in lines[2:10:2]}) == 1


def wait_until(is_so):
    give_up = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.005)


@pytest.fixture
def at_once(monkeypatch):
    """Galleries are written again without a pause."""
    monkeypatch.setattr(report, "_MIN_SECONDS", 0.01)
    monkeypatch.setattr(report, "_TIMES_A_PAGE", 0.0)


def test_kept_fresh_writes_a_page_during_the_run(tmp_path, at_once, caplog):
    page = tmp_path / "report" / "index.html"
    with caplog.at_level(logging.INFO, "cfx_jax"), report.kept_fresh(tmp_path, 4, StopRequest()):
        time.sleep(0.05)  # There is no run in the folder yet.
        for index in (3, 0, 1):
            make_run(tmp_path, computed=[index])
            anchor = f"example-{index}"
            wait_until(lambda anchor=anchor: page.exists() and anchor in Page(page).anchors)
    assert [record.getMessage() for record in caplog.records] == [
        f"gallery of the results so far, updated during the run: {page}"
    ]
    assert Page(page).anchors == ["about", "gallery", "listed", "example-0", "example-1",
                                  "example-3", "data"]  # fmt: skip


def test_kept_fresh_writes_once_without_new_results(tmp_path, at_once, monkeypatch):
    make_run(tmp_path)
    written = []
    monkeypatch.setattr(report, "write_report", lambda *_: written.append(1))
    with report.kept_fresh(tmp_path, 4, StopRequest()):
        wait_until(lambda: written)
        time.sleep(0.1)
    assert written == [1]


def test_write_report_keeps_the_number_of_pictures(tmp_path):
    """Another process may have drawn more pictures meanwhile."""

    def num_pictured(page):
        return Page(page).data["runs"][0]["pictured"]

    make_run(tmp_path, computed=[0, 1, 3])
    assert num_pictured(report.write_report(tmp_path, 1)) == 1
    gallery.write_gallery([tmp_path], tmp_path / "report")
    assert num_pictured(report.write_report(tmp_path, 1)) == 3
    gallery.write_gallery([tmp_path], tmp_path / "report", 2)
    assert num_pictured(report.write_report(tmp_path, 1)) == 2


@pytest.mark.parametrize("is_stopping", [True, False])
def test_kept_fresh_does_not_block_the_run(tmp_path, at_once, monkeypatch, is_stopping):
    stop, drawing, goes_on = StopRequest(), threading.Event(), threading.Event()

    def draw(picture):
        drawing.set()
        assert goes_on.wait(60)
        return b"a picture"

    monkeypatch.setattr("cfx_jax.report._drawing.pictures.encode_webp", draw)
    make_run(tmp_path)

    def run():
        with report.kept_fresh(tmp_path, 4, stop):
            assert drawing.wait(60)
            if is_stopping:
                stop.deadline = 0.0
                threading.Timer(0.1, goes_on.set).start()
                stop.check()
            threading.Timer(0.1, goes_on.set).start()

    if is_stopping:
        with pytest.raises(StoppedError):
            run()
    else:
        run()
    assert not any(thread.name == "page" for thread in threading.enumerate())
    assert not (tmp_path / "report" / "index.html").exists()


def test_kept_fresh_page_failure_does_not_stop_the_run(tmp_path, at_once, caplog):
    make_run(tmp_path)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("mine")
    with report.kept_fresh(tmp_path, 4, StopRequest()):
        wait_until(lambda: caplog.records)
        time.sleep(0.1)
        # One warning; as soon as the disk has space, the gallery is written.
        (record,) = caplog.records
        (tmp_path / "report" / "index.html").rename(tmp_path / "mine.html")
        wait_until((tmp_path / "report" / "index.html").exists)
    assert "the gallery cannot be written during the run" in record.getMessage()
    assert "not of a gallery of cfx_jax" in record.getMessage()
    assert (tmp_path / "mine.html").read_text() == "mine"


@pytest.mark.parametrize("name", ["index.html", "gallery.js"])
def test_run_with_page_refuses_an_unwritable_page_at_the_start(tmp_path, monkeypatch, name):
    monkeypatch.setattr(report.runner, "run", lambda *_, **__: pytest.fail("it has begun"))
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / name).write_text("mine")
    with pytest.raises(FileExistsError, match="not of a gallery of cfx_jax"):
        report.run_with_page(Config(), tmp_path, StopRequest())


def test_run_with_page_final_failure_reports_complete_records(tmp_path, monkeypatch):
    def run(*_, **__):
        make_run(tmp_path)
        (tmp_path / "report").write_text("no folder")

    monkeypatch.setattr(report.runner, "run", run)
    with pytest.raises(OSError, match=f"records of the run are complete.* {tmp_path} --output=DIR"):
        report.run_with_page(Config(), tmp_path, StopRequest())
    (tmp_path / "report").unlink()
    monkeypatch.setattr(report.runner, "run", lambda *_, **__: None)
    place = report.run_with_page(Config(), tmp_path, StopRequest())
    assert len(Page(place).figures) > 0

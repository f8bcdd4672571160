"""The files of a gallery: their content and their replacement."""

import json
import shutil
import types

import numpy as np
import pytest

from cfx_jax.report import _drawing, gallery
from cfx_jax.report._facts import list_differences


def read_part(folder, name):
    """Returns the content of a part of the data, the arguments of its call."""
    text = (folder / f"{name}.js").read_text()
    assert text.startswith(f'cfx_part("{name}",')
    return json.loads(text[len(f'cfx_part("{name}",') : -len(")\n")])


def read_data(folder):
    text = (folder / "index.html").read_text()
    begin = text.index(">", text.index('id="data"')) + 1
    return json.loads(text[begin : text.index("</script>", begin)])["runs"]


def test_write_gallery_rows_are_in_parts_with_the_numbers(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "_ROWS_IN_PART", 2)
    gallery.write_gallery([make_run()], tmp_path / "out")
    (run,) = read_data(tmp_path / "out")
    assert run["parts"] == [0, 1, 2]
    parts = [read_part(tmp_path / "out", f"data/0/rows-{part}") for part in run["parts"]]
    assert [part["index"] for part in parts] == [[0, 1], [2, 3], [4]]
    assert parts[0]["id"] == ["a.png", "deep/../b c.png"]
    assert parts[1]["ssr_kept_area"] == [None, 0.375]
    assert parts[1]["sdr_status"] == [5, 0]
    assert parts[1]["pictured"] == [0, 1]
    # Cells of probability 1/8,104 hold hardly any entropy, those of 1/2 one bit each.
    assert parts[0]["ssr_entropy"] == pytest.approx([0.5009, 0.5009], abs=1e-3)
    assert parts[1]["ssr_entropy"][0] is None


def test_write_gallery_omits_missing_units(make_run, tmp_path):
    gallery.write_gallery([make_run(units=[1])], tmp_path / "out")
    (run,) = read_data(tmp_path / "out")
    assert (run["examples"], run["computed"]) == (5, 2)
    assert read_part(tmp_path / "out", "data/0/rows-0")["index"] == [2, 3]
    images = (tmp_path / "out" / "images").rglob("*.*")
    assert [path.name for path in images] == ["3.webp"]


def test_gallery_names_runs_by_their_differing_parts(tmp_path):
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    assert gallery._names(paths) == ["a/run", "b/run"]
    assert gallery._names([f"{paths[0]}/", tmp_path / "other"]) == ["run", "other"]
    assert gallery._names(paths[:1]) == ["run"]
    assert gallery._names([paths[0], paths[0]])[0].endswith("a/run"), "one run twice"


def test_write_gallery_of_several_runs_has_separate_files(make_run, tmp_path):
    run = make_run()
    gallery.write_gallery([run, run], tmp_path / "out", max_images=2)
    first, second = read_data(tmp_path / "out")
    assert first["pictured"] == second["pictured"] == 2
    text = (tmp_path / "out" / "index.html").read_text()
    assert text.count('id="example-0-1"') == text.count('id="example-1-1"') == 1
    for number in "01":
        assert len(list((tmp_path / "out" / "images" / number).rglob("*.webp"))) == 2


def test_write_gallery_rewrites_the_page_last(make_run, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("the disk is full")

    run = make_run()
    monkeypatch.setattr(_drawing.pictures, "encode_webp", fail)
    with pytest.raises(OSError, match="the disk is full"):
        gallery.write_gallery([run], tmp_path / "out")
    assert not (tmp_path / "out" / "index.html").exists()


def test_thin_keeps_the_end_of_a_long_trace():
    steps = np.arange(1001.0)
    thin = _drawing._thin(steps)
    assert len(thin) <= 200
    assert thin[-1] == 1000
    assert set(np.diff(thin)) == {6.0}
    assert _drawing._thin(np.array([np.nan, 1.0])) == [None, 1]


def test_write_gallery_refuses_a_non_run_before_writing(make_run, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no manifest\.json"):
        gallery.write_gallery([make_run(), tmp_path / "none"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def files_of(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["index.html", "gallery.css", "scale.png"])
def test_write_gallery_does_not_overwrite_foreign_files(make_run, tmp_path, name):
    folder, run = tmp_path / "mine", make_run()
    folder.mkdir()
    (folder / name).write_text("<h1>mine</h1>")
    with pytest.raises(FileExistsError, match=rf"{name} is not of a gallery of cfx_jax; expected"):
        gallery.write_gallery([run], folder)
    assert files_of(folder) == {name}
    assert (folder / name).read_text() == "<h1>mine</h1>"
    with pytest.raises(ValueError, match="is empty"):
        gallery.write_gallery([run], "")


def test_write_gallery_replaces_a_larger_gallery(make_run, tmp_path, monkeypatch):
    folder, run = tmp_path / "out", make_run()
    gallery.write_gallery([run, run], folder)
    larger = files_of(folder)
    for name in ("notes.txt", "data/0/rows.js", "images/0/0/1.png", "images/mine.webp"):
        (folder / name).write_text("mine")
    gallery.write_gallery([run], folder, max_images=1)
    gallery.write_gallery([run], tmp_path / "new", max_images=1)
    mine = {"notes.txt", "data/0/rows.js", "images/0/0/1.png", "images/mine.webp"}
    assert files_of(folder) == files_of(tmp_path / "new") | mine
    assert len(larger) > len(files_of(tmp_path / "new"))


def test_write_gallery_replaces_an_unfinished_gallery(make_run, tmp_path, monkeypatch):
    run = make_run()
    gallery.write_gallery([run], tmp_path / "out")
    (tmp_path / "out" / "index.html").unlink()
    assert gallery.write_gallery([run], tmp_path / "out").endswith("index.html")


def test_write_gallery_can_be_interrupted_between_any_two_files(make_run, tmp_path):
    """The old gallery remains; files written are complete, and the next call replaces them."""
    folder = tmp_path / "out"
    make_run(units=(0,))
    gallery.write_gallery([tmp_path / "run"], folder)
    before = (folder / "index.html").read_bytes()
    make_run(units=(1, 2))
    calls = []
    gallery.write_gallery([tmp_path / "run"], tmp_path / "whole", check=lambda: calls.append(1))
    # Once per file, and twice per picture, also before it is drawn.
    assert len(calls) == len(files_of(tmp_path / "whole")) + 4

    def check():
        if len(left) == 0:
            raise InterruptedError
        left.pop()

    whole = {name: (tmp_path / "whole" / name).read_bytes() for name in files_of(folder)}
    for number in range(len(calls)):
        left = [1] * number
        with pytest.raises(InterruptedError):
            gallery.write_gallery([tmp_path / "run"], folder, check=check)
        assert (folder / "index.html").read_bytes() == before
    assert whole["index.html"] != before
    # All files except index.html had been written by then.
    for name in whole.keys() - {"index.html"}:
        assert (folder / name).read_bytes() == whole[name]
    gallery.write_gallery([tmp_path / "run"], folder)
    for name in files_of(tmp_path / "whole"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("second", "settings", "reported"),
    [
        ({"learning_rate": 0.5}, {"learning_rate": 0.5}, []),
        ({"learning_rate": 0.5, "contrast": 3}, {"learning_rate": 0.5}, ["contrast: default, 3"]),
        ({"learning_rate": 0.4}, {"learning_rate": 0.4}, ["learning_rate: default, 0.4"]),
        # A number that a run of an earlier version did not know.
        ({"patience": 9}, {"learning_rate": 0.5, "patience": 9}, ["patience: default, 9"]),
    ],
)
def test_list_differences_ignores_explicit_defaults(second, settings, reported):
    def run(explain, settings):
        manifest = {"config": {"explain": {"mode": "region"} | explain}, "settings": settings}
        return types.SimpleNamespace(manifest=manifest)

    runs = [run({}, {"learning_rate": 0.5}), run(second, settings)]
    assert [f"{name}: {', '.join(values)}" for name, values in list_differences(runs)] == [
        f"explain.{what}" for what in reported
    ]


def test_write_gallery_warns_of_runs_without_common_examples(make_run, tmp_path, caplog):
    run = make_run()
    shutil.copytree(run, tmp_path / "same")
    shutil.rmtree(run)
    other = make_run(ids=["1", "2", "3", "4", "5"])
    message = "none of its examples has the id of one of another run"
    gallery.write_gallery([tmp_path / "same", tmp_path / "same"], tmp_path / "one")
    assert message not in caplog.text
    gallery.write_gallery([tmp_path / "same", other, tmp_path / "same"], tmp_path / "two")
    assert caplog.text.count(message) == 1
    assert f"{other}: {message}" in caplog.text

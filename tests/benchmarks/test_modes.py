"""The comparison of modes: tables of known results, errors, and a run in two parts."""

import dataclasses
import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from skimage import data

from cfx_jax.fido.settings import MODES

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "modes.py"
EGYPTIAN_CAT = 285
NAMES = ("a.png", "b.png", "c.png")


@pytest.fixture(scope="module")
def modes():
    spec = importlib.util.spec_from_file_location("modes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two pictures of a cat, and one of a cup labelled as a cat."""
    path = tmp_path_factory.mktemp("photographs")
    cat = data.chelsea()
    for name, pixels in zip(NAMES, (cat, cat[:, ::-1], data.coffee()), strict=True):
        Image.fromarray(np.asarray(pixels)).save(path / name)
    rows = [f"{name},{EGYPTIAN_CAT}" for name in NAMES]
    (path / "manifest.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    return path


def compare(folder, out, *arguments):
    command = [sys.executable, SCRIPT, f"--photos={folder}", f"--out={out}", "--size=96"]
    # One device: eight would be as many rows to learn, of which four are needed.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, env=environment
    )


def explanation(modes, value, kept):
    """Makes an explanation with a leading axis, with the fields that are read."""
    zeros = {field.name: np.zeros(1) for field in dataclasses.fields(modes.Explanation)}
    known = {"objective": [value], "kept_area": [kept], "success_rate": [1.0], "steps": [240]}
    return modes.Explanation(**(zeros | {name: np.asarray(one) for name, one in known.items()}))


def test_modes_tables_use_photographs_explained_by_all_modes(modes, tmp_path):
    photographs = [
        modes.Photograph(name, np.zeros((8, 8, 3), np.uint8), EGYPTIAN_CAT) for name in NAMES
    ]
    settings = {mode: MODES[mode] for mode in ("fast", "paper")}
    values = {"fast": ([-3.0, 1.0], [-1.0, 1.0]), "paper": ([-2.0, 0.5], [-1.2, 0.0], [99.0, 99.0])}
    results = modes.Results(tmp_path / "results")
    for mode, of_photos in values.items():
        for photo, (ssr, sdr) in zip(photographs, of_photos, strict=False):
            found = {
                "ssr": explanation(modes, ssr, 0.25),
                "sdr": explanation(modes, sdr, 0.25),
            }
            results.add(photo, settings[mode], found)
    # Of other settings: not a part of this.
    results.add(photographs[2], dataclasses.replace(MODES["fast"], num_steps=300), found)
    for again in (results, modes.Results(tmp_path / "results")):
        output = "\n".join(modes.tables(again, photographs, settings))
        for line in (
            "ssr, 2 photographs",
            "  objective    fast       -2.000",
            "  objective    paper      -1.600",
            "  objective    fast - paper: -0.400 [-1.000, 0.200]",
            "  fast at least as good as paper, within 0.25, on 100.0%",
            "  area         fast        0.250",
            "  evaluations  fast      240.000",
            "  evaluations  paper    1920.000",
            "sdr, 2 photographs",
            "  objective    fast - paper: 0.750 [0.500, 1.000]",
            "  fast at least as good as paper, within 0.25, on 0.0%",
            "  area         fast        0.750",
        ):
            assert line in output.splitlines(), output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("hello\n", "a line that is no result: 'hello'"),
        ('{"a": 1}\n', "a line that is no result"),
        ("3\n", "a line that is no result: '3'"),
        ('{"of": {}, "figures"', "was cut off: remove"),
    ],
)
def test_modes_results_refuse_and_keep_another_file(modes, tmp_path, content, message):
    path = tmp_path / "results"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        modes.Results(path)
    assert path.read_text() == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part=2/2"], "2/2 is no part"),
        (["--part=x"], "invalid _part value"),
        (["--num_photos=0"], "invalid positive value"),
        (["--mask_size=97"], "more cells than 96"),
        (["--photos=/no/such"], "no such folder"),
        (["--out=/no/such/file"], "No such file"),
        (["--out=/"], "Is a directory"),
    ],
)
def test_modes_bad_arguments_are_one_message(
    modes, tmp_path, capsys, monkeypatch, arguments, message
):
    given = ["modes.py", f"--photos={tmp_path}", f"--out={tmp_path / 'out'}", "--size=96"]
    monkeypatch.setattr(sys, "argv", [*given, *arguments])
    with pytest.raises(SystemExit):
        modes.main()
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_modes_parts_share_the_work_without_repeating_any(
    modes, folder, tmp_path, capsys, monkeypatch
):
    """The photograph of a cup, labelled as a cat, is left out."""
    done = []

    def explain(photographs, settings, classifier):
        for photo in photographs:
            done.append((photo.name, settings.num_steps))
            yield photo, {name: explanation(modes, 1.0, 0.5) for name in ("ssr", "sdr")}

    monkeypatch.setattr(modes, "_explain", explain)
    given = ["modes.py", f"--photos={folder}", f"--out={tmp_path / 'out'}", "--size=96"]
    for part in ("0/2", "0/2", "0/1"):
        monkeypatch.setattr(sys, "argv", [*given, "--modes", "bbmp", "fast", f"--part={part}"])
        modes.main()
    assert {name for name, _ in done} == {"a.png", "b.png"}
    assert len(done) == len(set(done)) == 4
    output = capsys.readouterr().out.splitlines()
    assert output.count("2 photographs, 96 x 96") == 3
    assert output.count("ssr, 1 photographs") == 2
    assert output.count("ssr, 2 photographs") == 1


def test_modes_compare_refuses_a_wrong_folder(folder, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "c.png").write_bytes((folder / "c.png").read_bytes())
    (wrong / "manifest.csv").write_text(f"file,label\nc.png,{EGYPTIAN_CAT}\n")
    process = compare(wrong, tmp_path / "results")
    assert process.returncode == 2
    assert "has no image that efficientnet_lite0 gets right" in process.stderr

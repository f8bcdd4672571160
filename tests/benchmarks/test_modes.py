"""The comparison of modes: what its tables say of known results, and a run in two parts."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "modes.py"
EGYPTIAN_CAT = 285
NAMES = ("a.png", "b.png", "c.png")


def compare(folder, out, *arguments):
    command = [sys.executable, SCRIPT, f"--photos={folder}", f"--out={out}", "--size=96"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two pictures of a cat, and one of a cup that is said to be a cat."""
    path = tmp_path_factory.mktemp("photographs")
    cat = photographs.chelsea()
    for name, pixels in zip(NAMES, (cat, cat[:, ::-1], photographs.coffee()), strict=True):
        Image.fromarray(np.asarray(pixels)).save(path / name)
    rows = [f"{name},{EGYPTIAN_CAT}" for name in NAMES]
    (path / "manifest.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    return path


def result(photo, mode, objective, value):
    figures = {"objective": value, "success_rate": 1.0, "area": 0.5, "steps": 2}
    return {"photo": photo, "mode": mode, "objective_name": objective, **figures}


def test_tables_are_of_the_photographs_that_all_modes_have_explained(folder, tmp_path):
    values = {
        ("fast", "ssr"): {"a.png": -3.0, "b.png": -1.0},
        ("paper", "ssr"): {"a.png": -2.0, "b.png": -1.2, "of another part": 100.0},
        ("fast", "sdr"): {"a.png": 1.0, "b.png": 1.0},
        ("paper", "sdr"): {"a.png": 0.5, "b.png": 0.0},
    }
    rows = [
        result(photo, mode, objective, value)
        for (mode, objective), by_photo in values.items()
        for photo, value in by_photo.items()
    ]
    out = tmp_path / "results.json"
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    process = compare(folder, out)
    assert process.returncode == 0, process.stderr
    said = process.stdout.splitlines()
    # The cup is no cat.
    assert said[0] == "2 photographs, 96 x 96"
    assert said.count("ssr, 2 photographs") == said.count("sdr, 2 photographs") == 1
    for line in (
        "  objective    fast       -2.000",
        "  objective    paper      -1.600",
        "  objective    fast - paper: -0.400 [-1.000, 0.200]",
        "  fast at least as good, within 0.25, on 100.0%",
        "  objective    fast - paper: 0.750 [0.500, 1.000]",
        "  fast at least as good, within 0.25, on 0.0%",
    ):
        assert line in said, process.stdout
    # Nothing was missing, so nothing was done.
    assert len(out.read_text().splitlines()) == len(rows)


@pytest.mark.slow
def test_parts_explain_what_one_process_explains(folder, tmp_path):
    """And what is there is not done again."""
    found = {}
    for out, parts in {"whole": ["0/1"], "parts": ["0/2", "1/2", "0/2"]}.items():
        path = tmp_path / out
        for part in parts:
            process = compare(folder, path, f"--part={part}", "--modes", "bbmp")
            assert process.returncode == 0, process.stderr
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found[out] = {(row["photo"], row["objective_name"]): row["objective"] for row in rows}
        assert len(rows) == len(found[out]) == 4
    assert found["parts"] == pytest.approx(found["whole"], abs=1e-3)


def test_a_folder_that_is_all_wrong_is_refused(folder, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / "c.png").write_bytes((folder / "c.png").read_bytes())
    (wrong / "manifest.csv").write_text(f"file,label\nc.png,{EGYPTIAN_CAT}\n")
    process = compare(wrong, tmp_path / "results.json")
    assert process.returncode == 2
    assert "has no image that efficientnet_lite0 gets right" in process.stderr

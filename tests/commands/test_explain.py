"""`cfx_jax explain PICTURE_OR_FOLDER...`: its images, its workdir and its output."""

import itertools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cfx_jax.commands import explain
from cfx_jax.config import ConfigError


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Three pictures, one of them in a sub-folder, in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "sub/c.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pixels = np.full((20, 20, 3), 40, np.uint8)
        pixels[5:15, 5:15, 0] = 250
        Image.fromarray(pixels).save(path)
    return tmp_path


def config_of(*argv):
    return explain._config(explain.parse([*argv]))


@pytest.mark.parametrize(
    ("argv", "folder", "files"),
    [
        (["."], ".", ()),
        (["a.png"], "", ("a.png",)),
        (["a.png", "sub/c.png"], "", ("a.png", "sub/c.png")),
        (["sub", "sub/c.png"], "sub", ("c.png",)),
        (["b.png", "a.png", "b.png"], "", ("b.png", "a.png")),
    ],
)
def test_explain_opens_pictures_and_folders(argv, folder, files, pictures):
    data = config_of(*argv).data
    assert (data.source, data.files) == ("folder", files)
    assert data.path == (folder if folder == "." else str(pictures / folder))


def test_explain_passes_its_options_on(pictures):
    config = config_of("a.png", "--target=tabby", "--mode=fast", "--objective=sdr")
    assert (config.explain.target, config.explain.mode) == ("tabby", "fast")
    assert config.explain.objectives == ("sdr",)


def test_explain_refuses_a_missing_picture(pictures):
    with pytest.raises(ConfigError, match=r"none\.png: no such file or folder"):
        config_of("a.png", "none.png")


@pytest.mark.parametrize("argv", [[""], ["a.png", ""]])
def test_explain_refuses_an_empty_path(argv, pictures):
    with pytest.raises(ConfigError, match=r"^an empty path; expected pictures or folders"):
        config_of(*argv)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["a.png"], ["runs/a", "runs/a-2", "runs/a-3"]),
        (["sub"], ["runs/sub", "runs/sub-2", "runs/sub-3"]),
        (["a.png", "--workdir=here"], ["here"]),
    ],
)
def test_explain_names_its_workdir_after_the_picture(argv, expected, pictures):
    assert [*itertools.islice(explain._workdirs(explain.parse(argv)), 3)] == expected


MODEL = """
import jax.numpy as jnp
import cfx_jax

def apply(params, images):
    red = images[..., 0].mean((1, 2)) - images[..., 1].mean((1, 2))
    return jnp.stack([100 * red - 5, jnp.zeros_like(red)], axis=1)

def build():
    names = ("red", "not red")
    return cfx_jax.Classifier((), apply, image_size=(32, 32), class_names=names)
"""


@pytest.mark.slow
def test_explain_ends_with_a_table_and_the_path_of_the_page(pictures):
    (pictures / "model.py").write_text(MODEL)
    command = [
        sys.executable, "-m", "cfx_jax", "explain", "a.png", "--classifier=model.py:build",
        "--generator=grey", "--num_steps=24",
    ]  # fmt: skip
    for target, workdir in (("red", "runs/a"), ("1", "runs/a-2")):
        done = subprocess.run(
            [*command, f"--target={target}"],
            env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[-1] == f"{workdir}/report/index.html"
        assert (pictures / lines[-1]).is_file()
        assert lines[0].split()[:3] == ["image", "explained", "class"]
        manifest = json.loads((pictures / workdir / "manifest.json").read_text())
        assert manifest["config"]["explain"]["target"] == target

"""What people install: the wheel that `python -m build` makes, and the types it gives them."""

import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PARTS = ("cfx_jax", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")


def build(what, source, folder):
    """Builds a distribution of a copy of the source, since building leaves files in it."""
    code = f"import setuptools.build_meta as b, sys; print(b.build_{what}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, folder], cwd=source, capture_output=True, text=True, check=True
    )
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel out of a source distribution, as `python -m build` makes it."""
    folder = tmp_path_factory.mktemp("build")
    (folder / "source").mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / "source" / part)
    with tarfile.open(build("sdist", folder / "source", folder)) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return build("wheel", unpacked, folder)


def test_it_holds_all_of_the_package_and_nothing_else(wheel):
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "cfx_jax").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected |= {f"cfx_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected
    for name in (
        "py.typed",
        "configs/demo.py",
        "report/templates/gallery.html.jinja",
        "report/static/gallery.js",
        "weights/gated_unet.safetensors",
        "weights/imagenet_classes.txt",
    ):
        assert f"cfx_jax/{name}" in names


def test_it_names_the_command_and_its_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        texts = {
            pathlib.PurePath(name).name: archive.read(name).decode()
            for name in archive.namelist()
            if ".dist-info/" in name
        }
    assert texts["entry_points.txt"].split("\n")[:2] == [
        "[console_scripts]", "cfx_jax = cfx_jax.__main__:main"
    ]  # fmt: skip
    assert texts["LICENSE"] == (ROOT / "LICENSE").read_text()

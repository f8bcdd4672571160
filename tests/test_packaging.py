"""The installed package: the wheel of `python -m build`, and its types."""

import os
import pathlib
import re
import shutil
import site
import subprocess
import sys
import venv
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
    assert "would be ignored" not in done.stdout + done.stderr
    return folder / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel out of a source distribution, as `python -m build` makes it."""
    folder = tmp_path_factory.mktemp("build")
    (folder / "source").mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / "source" / part)
    (folder / "unpacked").mkdir()
    archive = build("sdist", folder / "source", folder)
    subprocess.run(["tar", "xf", archive, "-C", folder / "unpacked"], check=True)
    (unpacked,) = (folder / "unpacked").iterdir()
    return build("wheel", unpacked, folder)


def test_wheel_holds_all_of_the_package_and_nothing_else(wheel):
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


def test_wheel_names_the_command_and_its_licence(wheel):
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


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The Python of an environment with the wheel, and with the libraries of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    return folder / "bin" / "python"


def check_types(python, program, cache):
    """Returns the errors of mypy in a program, by line."""
    strict = ["--strict", "--hide-error-codes", "--no-pretty", "--no-error-summary"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *strict, f"--cache-dir={cache}",
         f"--python-executable={python}", program.name],
        cwd=program.parent, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    errors = re.findall(rf"^{program.name}:(\d+): (.*)$", done.stdout, re.MULTILINE)
    assert len(errors) == len(done.stdout.splitlines()), done.stdout
    # Without what differs between versions of mypy and JAX.
    private = r'^note: Revealed type is "|builtins\.|(?<=\bjax\.)_src\.\w+\.'
    # The first of several errors in a line; the others explain it.
    return {int(line): re.sub(private, "", words) for line, words in reversed(errors)}


@pytest.mark.slow
def test_package_types_are_visible_to_a_user_program(python, tmp_path, request):
    program = tmp_path / "user_program.py"
    shutil.copy(ROOT / "tests/user_program.py", program)
    errors = check_types(python, program, request.config.cache.mkdir("mypy"))
    lines = enumerate(program.read_text().splitlines(), 1)
    expected = {n: line.partition("  # ")[2] for n, line in lines if "  # " in line}
    assert errors.keys() == expected.keys(), errors
    wrong = {n: errors[n] for n, words in expected.items() if not errors[n].startswith(words)}
    assert wrong == {}

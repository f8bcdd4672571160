"""The command line: output, exit statuses and errors."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import zarr
from absl import flags
from PIL import Image

from cfx_jax.commands import command_line
from cfx_jax.config import Config, ConfigError
from cfx_jax.records import RecordsError
from cfx_jax.runs import runner

# How ml_collections loads a config file; a command does not show it.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
ROOT = pathlib.Path(__file__).parents[2]
SMALL = [
    "--config=configs/demo.py",
    "--config.explain.num_steps=2",
    "--config.explain.num_samples=1",
    "--config.explain.mask_size=7",
    "--config.data.max_examples=2",
]


def call(*arguments, **options):
    """Runs the command in the checkout, on one device."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, "-m", "cfx_jax.main", *arguments],
        capture_output=True, text=True, cwd=ROOT, env=environment, check=False, **options,
    )  # fmt: skip


@pytest.mark.slow
def test_main_demo_writes_a_table_records_and_a_page(tmp_path):
    first = call(*SMALL, f"--workdir={tmp_path}/run")
    assert first.returncode == 0, first.stderr
    assert "2/2 images, written" in first.stderr
    lines = first.stdout.splitlines()
    assert lines[0].split() == ["image", "explained", "class", "objective", "before", "after",
                                "kept", "stability", "status"]  # fmt: skip
    assert [line.split()[0] for line in lines[2:6]] == [
        "coffee",
        "coffee",
        "motorcycle",
        "motorcycle",
    ]
    assert "espresso (967)" in lines[2]
    assert lines[-1] == f"report:  {tmp_path}/run/report/index.html"

    group = zarr.open_group(tmp_path / "run" / "records.zarr", mode="r")
    assert group["target"][:].tolist() == [967, 665]
    assert np.isfinite(group["ssr_objective"][:]).all()
    assert group["sdr_infilled"].shape == (2, 224, 224, 3)
    pictures = list((tmp_path / "run" / "report" / "images").rglob("*.webp"))
    assert len(pictures) == 2
    for picture in pictures:
        Image.open(picture).load()

    # Nothing is left to compute: the same table, and no network runs.
    second = call(*SMALL, f"--workdir={tmp_path}/run", timeout=60)
    assert second.stdout == first.stdout
    other = call(*SMALL, f"--workdir={tmp_path}/run", "--config.seed=2")
    assert other.returncode == 2
    assert "Traceback" not in other.stderr
    log, error = other.stderr.split("error: ")
    assert log == "data.max_examples: the first 2 of 3\n"
    assert "seed" in error


def assert_user_error(arguments, texts, monkeypatch):
    """In this process: the commands turn these errors into a message and exit code 2."""
    argv = ["main", *arguments]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", argv)  # Where flags of configs look for their fields.

    def start():
        config, workdir, _ = command_line.parse_command(argv, Config, "demo", flags.FlagValues())
        runner.run(config, workdir)

    with pytest.raises((ConfigError, RecordsError, OSError)) as raised:
        start()
    for text in texts:
        assert text in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--config.explain.steps=3"], ["config.explain.steps", "num_steps, num_samples"]),
        (["--config.nothing=3"], ["config.nothing", "data, classifier, generator"]),
        (["--config.explain.num_steps=many"], ["num_steps", "many"]),
        (["--config.classifier.name=resnet"], ["resnet", "efficientnet_lite0"]),
        (["--config.explain.mode=slow"], ["slow", "bbmp, fast, paper"]),
        (["--config.data.source=folder"], ["--config.data.path=DIR"]),
        (["--config=no/such/file.py"], ["no/such/file.py"]),
        (["--config={tmp}/empty.py"], ["empty.py", "get_config"]),
        (["--config={tmp}/wrong.py"], ["wrong.py", "returns a dict, not the Config"]),
        (["--confg=configs/demo.py"], ["confg"]),
        (["--workdir=README.md"], ["README.md"]),
        (["--workdir=/proc/nothing"], ["/proc/nothing"]),
        (["--config.classifier.weights=README.md"], ["README.md"]),
    ],
)
def test_main_user_errors_name_the_cause(arguments, texts, tmp_path, monkeypatch):
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "wrong.py").write_text("def get_config():\n    return {}\n")
    arguments = [text.format(tmp=tmp_path) for text in arguments]
    workdir = [] if any("workdir" in text for text in arguments) else [f"--workdir={tmp_path}/run"]
    assert_user_error([*arguments, *workdir], texts, monkeypatch)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argument", "texts"),
    [
        ("again", ["error: unexpected arguments ['again']; options begin with --"]),
        ("--config.explain.steps=3", ["error: ", "config.explain.steps", "num_steps, num_samples"]),
    ],
)
def test_main_user_errors_are_one_message_and_exit_code_2(argument, texts, tmp_path):
    process = call(argument, f"--workdir={tmp_path}/run")
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert [text for text in texts if text not in process.stderr] == []
    assert not (tmp_path / "run").exists()


def test_main_imagenet_without_data_explains_how_to_get_it(tmp_path, monkeypatch):
    assert_user_error(
        ["--config=configs/imagenet.py", f"--workdir={tmp_path}/run",
         f"--config.data.path={tmp_path}/tfds"],
        ["imagenet2012", "ILSVRC2012_img_val.tar", "download_and_prepare", f"{tmp_path}/tfds"],
        monkeypatch,
    )  # fmt: skip


def test_main_help_shows_the_two_flags():
    process = call("--help")
    assert process.returncode == 0
    assert "--config" in process.stdout
    assert "--workdir" in process.stdout

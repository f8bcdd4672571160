"""The command line, in processes of its own: what a user types and what comes back."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import zarr
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
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


def test_the_demo_ends_with_a_table_records_and_a_page(tmp_path):
    first = call(*SMALL, f"--workdir={tmp_path}/run")
    assert first.returncode == 0, first.stderr
    assert "2/2 images, written" in first.stderr
    assert "SDR objective" in first.stderr
    lines = first.stdout.splitlines()
    assert lines[0].split() == ["image", "explained", "class", "objective", "before", "after",
                                "kept", "status"]  # fmt: skip
    assert [line.split()[0] for line in lines[2:6]] == ["chelsea", "chelsea", "coffee", "coffee"]
    assert "Egyptian cat (285)" in lines[2]
    assert lines[-1] == f"report:  {tmp_path}/run/report/index.html"

    group = zarr.open_group(tmp_path / "run" / "records.zarr", mode="r")
    assert group["target"][:].tolist() == [285, 967]
    assert np.isfinite(group["ssr_objective"][:]).all()
    assert group["sdr_infilled"].shape == (2, 224, 224, 3)
    pictures = list((tmp_path / "run" / "report" / "images").glob("*.png"))
    assert len(pictures) >= 2 * 6
    for picture in pictures:
        Image.open(picture).load()

    # Nothing is left to compute: the same table, and no network runs.
    second = call(*SMALL, f"--workdir={tmp_path}/run", timeout=60)
    assert second.stdout == first.stdout
    other = call(*SMALL, f"--workdir={tmp_path}/run", "--config.seed=1")
    assert_user_error(other, "seed", "another")


def assert_user_error(process, *texts):
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    for text in texts:
        assert text in process.stderr


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--config.explain.steps=3"], ["config.explain.steps", "num_steps, num_samples"]),
        (["--config.nothing=3"], ["config.nothing", "data, classifier, generator"]),
        (["--config.explain.num_steps=many"], ["num_steps", "many"]),
        (["--config.classifier.name=resnet"], ["resnet", "efficientnet_lite0"]),
        (["--config.explain.mode=quick"], ["quick", "bbmp, fast, paper"]),
        (["--config.data.source=folder"], ["--config.data.path=DIR"]),
        (["--config=no/such/file.py"], ["no/such/file.py"]),
        (["--config={tmp}/empty.py"], ["empty.py", "get_config"]),
        (["--config={tmp}/wrong.py"], ["wrong.py", "cfx_jax.config.Config"]),
        (["--confg=configs/demo.py"], ["confg"]),
        (["again"], ["again", "begin with --"]),
        (["--workdir=README.md"], ["README.md"]),
        (["--workdir=/proc/nothing"], ["/proc/nothing"]),
        (["--config.classifier.weights=README.md"], ["README.md"]),
    ],
)
def test_user_errors_are_one_message_and_exit_code_2(arguments, texts, tmp_path):
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "wrong.py").write_text("def get_config():\n    return {}\n")
    arguments = [text.format(tmp=tmp_path) for text in arguments]
    workdir = [] if any("workdir" in text for text in arguments) else [f"--workdir={tmp_path}/run"]
    assert_user_error(call(*arguments, *workdir), *texts)
    assert not (tmp_path / "run").exists()


def test_imagenet_without_its_data_says_how_to_get_it(tmp_path):
    process = call(
        "--config=configs/imagenet.py", f"--workdir={tmp_path}/run",
        f"--config.data.path={tmp_path}/tfds",
    )  # fmt: skip
    texts = ("imagenet2012", "ILSVRC2012_img_val.tar", "download_and_prepare", f"{tmp_path}/tfds")
    assert_user_error(process, *texts)


def test_help_shows_the_two_flags():
    process = call("--help")
    assert "--config" in process.stdout
    assert "--workdir" in process.stdout

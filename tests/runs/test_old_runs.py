"""A run that earlier code has made can be read, and gone on with.

`old_run.zip` is the folder that `COMMAND` at commit 0fd7fb1 made of `write_inputs`, less its page,
and `old_evaluation.zip` are the scores of it that `EVALUATION` at commit 178bab8 has.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pyarrow.parquet
import pytest
from absl import flags
from PIL import Image
from safetensors.numpy import save_file

from cfx_jax.commands import command_line
from cfx_jax.config import Config, GeneratorConfig
from cfx_jax.evaluate.config import EvaluateConfig
from cfx_jax.evaluate.evaluation import evaluate
from cfx_jax.evaluate.measures import LATER
from cfx_jax.records import RecordReader, RecordsError
from cfx_jax.report import page
from cfx_jax.report.export import export_pictures, export_table
from cfx_jax.runs import runner
from cfx_jax.runs.checking import describe_progress, find_problems
from cfx_jax.runs.explanations import Explanations

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [
    "cfx_jax.main", "--workdir=run", "--config.data.source=folder",
    "--config.data.path=images", "--config.classifier.name=mnist_cnn",
    "--config.classifier.weights=weights.safetensors", "--config.generator.name=grey",
    # Which was the default then, with these numbers.
    "--config.explain.mode=fast", "--config.explain.learning_rate=0.2",
    "--config.explain.look_steps=0",
    "--config.explain.num_steps=30", "--config.explain.num_samples=2",
    "--config.explain.mask_size=7", "--config.batch.per_device_batch_size=2",
    "--config.batch.unit_size=2",
]  # fmt: skip
EVALUATION = EvaluateConfig(generator=GeneratorConfig("grey"), baselines=("centre",), curve_steps=1)


def write_inputs(folder):
    """Three waves, a file that is no image, and weights that no version draws otherwise."""
    (folder / "images").mkdir()
    rows = np.arange(28)
    for name, step in {"a": 1, "b": 3, "d": 5}.items():
        pixels = (np.add.outer(rows * step, rows * 9 // step) * 4 % 256).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
    (folder / "images" / "c.png").write_bytes(b"no image")
    arrays = {}
    shapes = {"conv1": (32, 1, 3, 3), "conv2": (64, 32, 3, 3), "fc1": (128, 9216), "fc2": (10, 128)}
    for name, shape in shapes.items():
        noise = np.arange(np.prod(shape), dtype=np.uint64) * 2654435761 % 65536 / 32768 - 1
        scale = np.float32(np.sqrt(np.prod(shape[1:]) / 2))
        arrays[f"{name}.weight"] = noise.astype(np.float32).reshape(shape) / scale
        arrays[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    save_file(arrays, folder / "weights.safetensors")


@pytest.fixture
def old_run(request, tmp_path, monkeypatch):
    """Its folder, beside its inputs, whose paths are relative."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", COMMAND)  # where `config_flags` looks
    write_inputs(tmp_path)
    with zipfile.ZipFile(request.path.parent / "old_run.zip") as archive:
        archive.extractall(tmp_path / "run")
    return tmp_path / "run"


def change_manifest(run, change):
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("is_from_before_blocks", [False, True])
def test_it_is_read(old_run, is_from_before_blocks):
    if is_from_before_blocks:
        change_manifest(old_run, lambda manifest: manifest["settings"].pop("block_size"))
    assert describe_progress(old_run).splitlines()[:2] == [
        "4 of 4 examples done (100.0%), 2 of 2 units", "SSR: 3 ok, 1 unreadable"
    ]  # fmt: skip
    assert list(find_problems(old_run)) == []
    table = pyarrow.parquet.read_table(export_table(old_run, "out")).to_pydict()
    assert table["id"] == ["a.png", "b.png", "c.png", "d.png"]
    assert table["target_name"] == ["9", "0", "", "7"]
    np.testing.assert_allclose(table["ssr_kept_area"], [0.246, 0.241, np.nan, 0.294], atol=5e-4)
    assert export_pictures(old_run, "out") == 6
    page.write_report(old_run)
    assert len(list((old_run / "report/images").rglob("*.webp"))) == 3
    summary = page.summary(old_run)
    assert (
        "a.png  9 (9)            SDR        10.6 % (-2.14)  9.3 % (-2.28)   25.7 %  ok" in summary
    )


def resume(run):
    config, workdir, _ = command_line.parse_command(COMMAND, Config, "demo", flags.FlagValues())
    assert run.samefile(workdir)
    runner.run(config, workdir)


def test_it_is_finished(old_run, files):
    before = files(old_run)
    resume(old_run)
    assert files(old_run) == before


def test_from_before_blocks_it_is_not_gone_on_with(old_run):
    change_manifest(old_run, lambda manifest: manifest["settings"].pop("block_size"))
    with pytest.raises(RecordsError, match=r"\n  settings\.block_size: added \(now 1\)\n"):
        resume(old_run)


@pytest.mark.slow
def test_its_missing_unit_is_computed_as_it_was(old_run, commands):
    run = Explanations(old_run)
    before = {field.name: run.read(field.name) for field in run.fields}
    for chunk in old_run.glob("records.zarr/*/c/1"):
        shutil.rmtree(chunk) if chunk.is_dir() else chunk.unlink()
    assert run.complete_units == [0]
    environment = commands.environment | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", *COMMAND], env=environment, check=True)
    assert run.complete.all()
    for name, then in before.items():
        # Pictures may be rounded to the next value.
        tolerance = 1 if then.shape[-1:] == (3,) else 0 if then.dtype.kind in "ui" else 2e-3
        now = run.read(name).astype(np.float64)
        np.testing.assert_allclose(now, then, rtol=0, atol=tolerance, err_msg=name)


def test_it_is_evaluated(old_run):
    config = EvaluateConfig(generator=GeneratorConfig("grey"), baselines=(), curve_steps=1)
    evaluate(config, "evaluation", ["run"])
    scores = RecordReader("evaluation/scores/ssr_run")
    np.testing.assert_array_equal(scores.read("status"), [0, 0, -1, 0])
    assert (scores.read("judged_success_rate")[[0, 1, 3]] >= 0.5).all()


def test_its_old_evaluation_is_gone_on_with(old_run, request):
    """From before there were parts of regions and other classifiers: it stays without them."""
    with zipfile.ZipFile(request.path.parent / "old_evaluation.zip") as archive:
        archive.extractall("evaluation")
    scores = RecordReader("evaluation/scores/ssr_run")
    before = {field.name: scores.read(field.name) for field in scores.fields}
    for chunk in pathlib.Path("evaluation/scores/ssr_run").glob("records.zarr/*/c/1"):
        shutil.rmtree(chunk) if chunk.is_dir() else chunk.unlink()
    evaluate(EVALUATION, "evaluation", ["run"])
    assert scores.complete.all()
    for name, then in before.items():
        now = scores.read(name).astype(float)
        np.testing.assert_allclose(now, then, rtol=0, atol=2e-3, err_msg=name)
    table = json.loads(pathlib.Path("evaluation/table.json").read_text())
    assert table["methods"]["all"]["ssr_run"]["entropy"]["n"] == 3
    assert not table["methods"]["all"]["ssr_run"].keys() & {*LATER}

"""Results are never written where a command would read their pictures as images."""

import os
import pathlib

import numpy as np
import pytest
from PIL import Image

import cfx_jax
from cfx_jax.commands.infill_folder import infill_folder
from cfx_jax.config import Config, ConfigError, DataConfig
from cfx_jax.data import (
    check_output_folder,
    check_output_folder_of_run,
    list_images,
)
from cfx_jax.evaluate import EvaluateConfig, evaluate
from cfx_jax.registry import load_generator
from cfx_jax.train import TrainClassifierConfig, TrainConfig, train, train_classifier


@pytest.fixture
def place(tmp_path):
    """A folder `all` with `all/photos` of two images, one in a sub-folder, and links to both."""
    for name in ("a.png", "sub/b.png"):
        path = tmp_path / "all/photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    (tmp_path / "link").symlink_to(tmp_path / "all/photos")
    (tmp_path / "outside").mkdir()
    (tmp_path / "all/photos/way_out").symlink_to(tmp_path / "outside")
    (tmp_path / "all/sub").mkdir()
    return tmp_path


def make_run(folder):
    (folder / "records.zarr").mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "report").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "report/scale.png")


IS, CONTAINS, INSIDE = (
    f"{verb} the folder of the images" for verb in ("is", "contains", "lies inside")
)


@pytest.mark.parametrize("source", ["all/photos", "link", "all/sub/../photos/"])
@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("all/photos", IS),
        ("link", IS),
        ("all/photos/../photos", IS),
        ("file", IS),
        ("all", CONTAINS),
        (".", CONTAINS),
        ("all/photos/new", INSIDE),
        ("all/photos/new/deeper", INSIDE),
        ("link/new", INSIDE),
        ("all/photos2", ""),
        ("all/photos/way_out", ""),
        ("all/sub", ""),
        ("new", ""),
    ],
)
def test_check_output_folder_compares_real_folders(place, source, output, problem):
    config = DataConfig("folder", str(place / source))
    output = f"file://{place}/all/photos" if output == "file" else place / output
    if not problem:
        check_output_folder(config, output)
        return
    with pytest.raises(ConfigError, match=f"^workdir .* {problem} .*expected a folder of its own$"):
        check_output_folder(config, output)


def test_check_output_folder_accepts_runs_that_listings_skip(place):
    photos = place / "all/photos"
    config = DataConfig("folder", str(photos))
    before = list_images(photos).images
    check_output_folder(config, photos / "runs/first", is_of_run=True)
    make_run(photos / "runs/first")
    assert list_images(photos).images == before
    # The run goes on; its gallery, or an evaluation inside it, is not read, either.
    check_output_folder(config, photos / "runs/first", is_of_run=True)
    check_output_folder(config, photos / "runs/first/scores")
    with pytest.raises(ConfigError, match="contains images"):
        check_output_folder(config, photos / "sub", is_of_run=True)


def test_check_output_folder_keeps_class_folders_apart_from_runs(place):
    photos = place / "all/photos"
    config = DataConfig("folder", str(photos), class_folders=True)
    check_output_folder(config, photos / "run", is_of_run=True)
    with pytest.raises(ConfigError, match=INSIDE):
        check_output_folder(config, photos / "runs/first", is_of_run=True)


@pytest.mark.parametrize("path", ["all/photos", "all/photos/a.png"])
def test_check_output_folder_of_named_images(place, path):
    """Other pictures in the folder are not read, so that results may lie there."""
    is_file = path.endswith("png")
    config = DataConfig("folder", str(place / path), files=() if is_file else ("sub/b.png",))
    read = place / "all/photos" if is_file else place / "all/photos/sub"
    check_output_folder(config, place / "all/photos/runs/first")
    check_output_folder(config, read / "new")
    for output in (read, place):
        with pytest.raises(ConfigError, match="contains images"):
            check_output_folder(config, output)


@pytest.mark.parametrize(
    "config", [DataConfig(), DataConfig("npz", "x.npz"), DataConfig("folder", "nowhere")]
)
def test_check_output_folder_needs_a_folder_of_images(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_output_folder(config, tmp_path)
    check_output_folder(DataConfig("folder", str(tmp_path)), "gs://bucket/run")


def test_check_output_folder_of_run_reads_the_manifest(place):
    data = {"source": "folder", "path": str(place / "all/photos"), "files": [], "later": 1}
    with pytest.raises(ConfigError, match=f"^--to .* {INSIDE}"):
        check_output_folder_of_run({"config": {"data": data}}, place / "all/photos/tables", "--to")
    check_output_folder_of_run({"config": {"data": data}}, place / "tables", "--to")
    check_output_folder_of_run({}, place / "all", "--to")


def test_run_writes_nothing_into_the_images(place, monkeypatch):
    photos = place / "all/photos"
    before = sorted(os.walk(place))
    monkeypatch.setattr("cfx_jax.registry.load_models", lambda *_: pytest.fail("models loaded"))
    for workdir in (photos, place / "all", pathlib.Path(f"{place}/link")):
        with pytest.raises(ConfigError, match="the folder of the images"):
            cfx_jax.run(Config(data=DataConfig("folder", str(photos))), workdir)
    assert sorted(os.walk(place)) == before


def writes_an_evaluation(photos, output):
    evaluate(EvaluateConfig(data=DataConfig("folder", str(photos))), output)


def writes_a_training(photos, output):
    data = DataConfig("folder", str(photos))
    train(TrainConfig(model="vae_digits", data=data, heldout=data), output)


def writes_a_training_of_a_classifier(photos, output):
    data = DataConfig("folder", str(photos))
    train_classifier(TrainClassifierConfig(data=data, heldout=data), output)


def writes_in_filled_images(photos, output):
    infill_folder(load_generator("grey"), photos, photos.parent / "masks", output)


@pytest.mark.parametrize(
    "write",
    [
        writes_an_evaluation,
        writes_a_training,
        writes_a_training_of_a_classifier,
        writes_in_filled_images,
    ],
)
def test_every_command_refuses_the_folder_of_the_images(place, write):
    photos = place / "all/photos"
    before = sorted(os.walk(place))
    for output in (photos, photos / "new"):
        with pytest.raises(ConfigError, match="the folder of the images"):
            write(photos, output)
    assert sorted(os.walk(place)) == before


def test_infill_folder_refuses_to_replace_masks(place):
    (place / "infilled").mkdir()
    with pytest.raises(ConfigError, match=r"--output: its folder .*infilled is the folder"):
        infill_folder(load_generator("grey"), place / "all/photos", place / "infilled", place)

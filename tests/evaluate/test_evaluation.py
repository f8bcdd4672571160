"""Whole evaluations in this process: runs, scores and tables on real files."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cfx_jax import registry
from cfx_jax.config import ClassifierConfig, ConfigError, DataConfig, ExplainConfig, GeneratorConfig
from cfx_jax.evaluate.config import EvaluateConfig
from cfx_jax.evaluate.evaluation import evaluate
from cfx_jax.records import RecordReader


@pytest.fixture(scope="module", autouse=True)
def tiny(random_classifier):
    """A loadable five-class network on 16 x 16 images."""
    model = random_classifier.replace(image_size=(16, 16), name="tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "load_classifier", lambda name, *a, **k: model)
        yield model


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = [("file", "label", "boxes")]
    for index in range(4):
        name = f"{index}.png"
        pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        rows.append((name, index % 2, "" if index == 3 else "4 4 12 12"))
    (folder / "broken.png").write_bytes(b"no picture")
    rows.append(("broken.png", 0, ""))
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return EvaluateConfig(
        data=DataConfig(source="folder", path=str(folder), resize="stretch"),
        classifier=ClassifierConfig(name="tiny"),
        generator=GeneratorConfig("local_mean"),
        explain=ExplainConfig(num_steps=4, num_samples=2, mask_size=8),
        infills=("local_mean", "blur"),
        baselines=("gradient", "centre", "uniform"),
        curve_steps=4,
    )


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    evaluate(config, folder)
    return folder


def test_tables_hold_all_methods_and_the_controls(workdir):
    table = json.loads((workdir / "table.json").read_text())
    methods = table["methods"]["all"]
    learnt = {f"{o}_{g}" for o in ("ssr", "sdr", "joint") for g in ("local_mean", "blur")}
    boxes = {f"box: {box}" for box in ("whole", "centre", "truth")}
    assert set(methods) == learnt | boxes | {"gradient", "centre", "uniform"}
    assert table["num_images"] == 4
    assert methods["gradient"]["error"]["n"] == 3
    assert methods["gradient"]["deletion_grey"]["n"] == 4
    # 64 of 256 pixels are in the box.
    assert methods["box: whole"]["error"]["mean"] == 1.0
    assert methods["uniform"]["pointing"]["mean"] == 1.0
    assert {row["ours"] for row in table["agreement"]} == {"ssr_local_mean", "sdr_local_mean"}
    text = (workdir / "table.md").read_text()
    assert all(f"| {name} |" in text for name in methods)
    for name in ("curves.png", "maps.png"):
        with Image.open(workdir / name) as picture:
            assert picture.size[0] > 100


def test_the_means_are_those_of_the_images(workdir):
    table = json.loads((workdir / "table.json").read_text())["methods"]["all"]
    with (workdir / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 9
    for method in ("gradient", "sdr_blur"):
        for metric in ("error", "deletion_grey", "variation"):
            values = [float(r[metric]) for r in rows if r["method"] == method and r[metric]]
            assert np.mean(values) == pytest.approx(table[method][metric]["mean"], rel=1e-4)


def test_records_alone_are_enough_and_give_the_same_numbers(config, workdir, tmp_path):
    runs = [str(workdir / "runs" / name) for name in config.infills]
    again = EvaluateConfig(
        generator=GeneratorConfig("local_mean"), baselines=("gradient",), curve_steps=4,
        explain=config.explain,
    )  # fmt: skip
    evaluate(again, tmp_path, runs)
    ours, theirs = (
        RecordReader(folder / "scores" / "ssr_blur").read("insertion")
        for folder in (tmp_path, workdir)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_resumed_evaluation_measures_only_what_is_missing(config, workdir, monkeypatch):
    monkeypatch.setattr("cfx_jax.evaluate.scoring.Scorer.score", None)
    before = (workdir / "table.json").read_bytes()
    evaluate(config, workdir)
    assert (workdir / "table.json").read_bytes() == before


def test_another_classifier_is_refused(workdir, tmp_path, tiny, monkeypatch, config):
    other = tiny.replace(params=jax.tree.map(jnp.zeros_like, tiny.params))
    monkeypatch.setattr(registry, "load_classifier", lambda name, *a, **k: other)
    with pytest.raises(ConfigError, match="same images and classifier"):
        evaluate(EvaluateConfig(explain=config.explain), tmp_path, [str(workdir / "runs/blur")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baselines": ("saliency",)}, "expected some of gradient"),
        ({"baselines": ("centre", "centre")}, "only once"),
        ({"curve_steps": 0}, "curve_steps"),
    ],
)
def test_a_config_that_cannot_run_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig(**options).validate()

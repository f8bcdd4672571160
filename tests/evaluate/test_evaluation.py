"""Whole evaluations in this process, on real files: runs, scores and tables."""

import concurrent.futures
import csv
import dataclasses
import json
import shutil
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cfx_jax.config import (
    BatchConfig,
    ClassifierConfig,
    ConfigError,
    DataConfig,
    ExplainConfig,
    GeneratorConfig,
)
from cfx_jax.data import Source
from cfx_jax.evaluate import _study
from cfx_jax.evaluate.config import EvaluateConfig, TransferConfig
from cfx_jax.evaluate.evaluation import evaluate
from cfx_jax.evaluate.scoring import Scorer
from cfx_jax.records import RecordReader, RecordsError
from cfx_jax.runs import cluster
from cfx_jax.runs.preemption import StopRequest

pytestmark = pytest.mark.slow  # They share a run of half a minute.


@pytest.fixture(scope="module")
def tiny(random_classifier):
    """A five-class network on 16 x 16 images."""
    return random_classifier.replace(image_size=(16, 16), name="tiny")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    rows = [("file", "label", "boxes")]
    for index in range(4):
        name = f"{index}.png"
        pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
        # Image 2 has no label, image 3 no box.
        label = "" if index == 2 else index % 2
        rows.append((name, label, "" if index == 3 else "4 4 12 12"))
    (folder / "broken.png").write_bytes(b"no picture")
    rows.append(("broken.png", 0, ""))
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return EvaluateConfig(
        data=DataConfig(source="folder", path=str(folder), resize="stretch"),
        generator=GeneratorConfig("local_mean"),
        explain=ExplainConfig(num_steps=4, num_samples=2, mask_size=8),
        infills=("local_mean", "blur"),
        baselines=("gradient", "centre", "uniform"),
        curve_steps=4,
        sanity_images=2,
    )


@pytest.fixture(scope="module")
def workdir(config, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    evaluate(config, folder, classifier=tiny)
    return folder


def test_evaluate_tables_hold_all_methods_and_controls(workdir):
    table = json.loads((workdir / "table.json").read_text())
    methods = table["methods"]["all"]
    learnt = {f"{o}_{g}" for o in ("ssr", "sdr", "joint") for g in ("local_mean", "blur")}
    boxes = {f"box: {box}" for box in ("whole", "centre", "truth")}
    assert set(methods) == learnt | boxes | {"gradient", "centre", "uniform"}
    assert table["num_images"] == 4
    assert methods["gradient"]["error"]["n"] == 3
    assert methods["gradient"]["deletion_grey"]["n"] == 4
    assert table["num_labelled"] == 3
    assert methods["gradient"]["official_error"]["n"] == 2
    assert methods["gradient"]["weights_agreement"]["n"] == 2
    assert methods["gradient"]["weights_agreement"]["mean"] < 0.9
    assert methods["gradient"]["class_agreement"]["mean"] < 0.9
    assert methods["centre"]["class_agreement"]["mean"] == pytest.approx(1.0)
    # 64 of 256 pixels are in the box.
    assert methods["box: whole"]["error"]["mean"] == 1.0
    assert methods["uniform"]["pointing"]["mean"] == 1.0
    assert {row["ours"] for row in table["agreement"]} == {"ssr_local_mean", "sdr_local_mean"}
    text = (workdir / "table.md").read_text()
    assert all(f"| {name} |" in text for name in methods)
    for name in ("curves.png", "maps.png"):
        with Image.open(workdir / name) as picture:
            assert picture.size[0] > 100


def test_evaluate_means_equal_those_of_the_images(workdir):
    table = json.loads((workdir / "table.json").read_text())["methods"]["all"]
    with (workdir / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 9
    labelled = [r for r in rows if r["method"] == "centre" and r["label"] != "-1"]
    top_1 = [r["label"] == r["prediction"] for r in labelled]
    assert np.mean(top_1) == json.loads((workdir / "table.json").read_text())["top_1"]
    for method in ("gradient", "sdr_blur"):
        for metric in ("error", "deletion_grey", "variation"):
            values = [float(r[metric]) for r in rows if r["method"] == method and r[metric]]
            assert np.mean(values) == pytest.approx(table[method][metric]["mean"], rel=1e-4)


@pytest.fixture
def calls(monkeypatch):
    """Records the calls of an evaluation, by name, with the images of each call."""
    found = {"decode": [], "classify": [], "score": [], "complete": []}

    def count(owner, name, key, note):
        inner = getattr(owner, name)

        def counted(*args, **kwargs):
            found[key] += note(*args)
            return inner(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    count(Source, "decode", "decode", lambda source, index, *_: [index])
    count(Scorer, "classify", "classify", lambda scorer, images: images.identities.tolist())
    count(Scorer, "score", "score", lambda scorer, images, *_: images.identities.tolist())
    whole = RecordReader.complete.fget

    def read_marks(reader):
        found["complete"].append(reader)
        return whole(reader)

    monkeypatch.setattr(RecordReader, "complete", property(read_marks))
    return found


def test_evaluate_from_records_alone_gives_the_same_numbers(config, tiny, workdir, tmp_path, calls):
    """The generator mask is that of the runs; the default one is larger than these images."""
    runs = [str(workdir / "runs" / name) for name in config.infills]
    again = EvaluateConfig(
        generator=GeneratorConfig("local_mean"), baselines=("gradient",), curve_steps=4,
        sanity_images=0,
    )  # fmt: skip
    evaluate(again, tmp_path, runs, classifier=tiny)
    ours, theirs = (
        RecordReader(folder / "scores" / "ssr_blur").read("insertion")
        for folder in (tmp_path, workdir)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # Each image once for all eight parts, and marks not for each unit.
    assert sorted(calls["decode"]) == list(range(5))
    assert len(calls["classify"]) == len(set(calls["classify"])) == 4
    assert len(calls["score"]) == 7 * 4
    assert len(calls["complete"]) <= 2 * (8 + 2)


def test_evaluate_resumes_with_only_the_missing_units(config, tiny, workdir, tmp_path, calls):
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    for part, unit in (("gradient", 1), ("ssr_blur", 1), ("images", 3)):
        forget(tmp_path / "scores" / part, unit)
    evaluate(config, tmp_path, classifier=tiny)
    assert sorted(calls["decode"]) == [1, 3]
    assert len(calls["score"]) == 2
    assert (tmp_path / "table.json").read_bytes() == (workdir / "table.json").read_bytes()


def test_evaluate_refuses_scores_of_another_unit_size(config, tiny, workdir):
    """Earlier versions divided the same runs into units of another size."""
    config = dataclasses.replace(config, infills=(), batch=BatchConfig(unit_size=3))
    with pytest.raises(RecordsError, match="unit_size: stored 1, now 3"):
        evaluate(config, workdir, classifier=tiny)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, ""),
        ({"classifier": ClassifierConfig("resnet50")}, "classifier.name: ignored, because"),
        (
            {"data": DataConfig(source="folder", path="there"), "explain": ExplainConfig("ssr")},
            "data.path, explain.objective: ignored, because the manifest of the run defines what "
            "was explained, and how; give the new folder of the images with --images",
        ),
    ],
)
def test_adopt_warns_of_settings_that_differ_from_the_run(config, workdir, given, message, caplog):
    stored = RecordReader(workdir / "runs" / "blur").manifest["config"]
    adopted = _study.adopt(EvaluateConfig(**given), stored, "", has_classifier=True)
    assert adopted.data == config.data
    assert adopted.explain == config.explain
    assert adopted.classifier == ClassifierConfig("tiny")
    assert message in caplog.text
    assert len(caplog.records) == bool(message)


def test_adopt_names_the_flag_for_images_that_moved(workdir):
    stored = RecordReader(workdir / "runs" / "blur").manifest["config"]
    with pytest.raises(
        ConfigError, match=r"have moved .*'/gone'.*; give their new folder with --images"
    ):
        _study.adopt(EvaluateConfig(), stored, "/gone", has_classifier=True)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("explain", lambda fields: fields.pop("contrast"), "contrast in its section explain;"),
        ("data", lambda fields: fields.update(form="png"), "form in its section data; .* repeat"),
    ],
)
def test_adopt_refuses_a_config_of_another_version_in_one_line(workdir, section, change, message):
    stored = RecordReader(workdir / "runs" / "blur").manifest["config"]
    change(stored[section])
    with pytest.raises(RecordsError, match=f"lacks, or has in addition, {message}"):
        _study.adopt(EvaluateConfig(), stored, "", has_classifier=True)


def test_evaluate_refuses_a_folder_of_scores(workdir, tmp_path):
    with pytest.raises(RecordsError, match="not of explanations"):
        evaluate(EvaluateConfig(), tmp_path, [str(workdir / "scores/centre")])


def forget(folder, *units):
    """Removes the marks of units, as if they were not computed yet."""
    for unit in units:
        (folder / "records.zarr/complete/c" / str(unit)).unlink()


def test_evaluate_hosts_at_different_times_measure_the_same(tiny, workdir, tmp_path, monkeypatch):
    this, stop = threading.local(), StopRequest()
    monkeypatch.setattr(jax, "process_index", lambda: this.host)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(cluster, "_MAX_POLL_SECONDS", 0.25)

    def evaluate_at(host, units_seen):
        this.host = host
        run = tmp_path / f"{host}_{len(units_seen)}" / "blur"
        shutil.copytree(workdir / "runs" / "blur", run)
        forget(run, *(set(range(5)) - units_seen))
        options = EvaluateConfig(
            generator=GeneratorConfig("grey"), baselines=("centre",), curve_steps=1
        )
        return evaluate(options, tmp_path / "scores", [str(run)], stop=stop, classifier=tiny)

    # The second time in the same folder, after the run has continued.
    for seen in [({0}, {0, 1, 2, 3}), ({0, 1, 2}, {0})]:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(evaluate_at, *pair) for pair in enumerate(seen)]
            _, waiting = concurrent.futures.wait(futures, timeout=100)
            stop.deadline = time.monotonic() if waiting else stop.deadline
            table, nothing = (future.result() for future in futures)
        assert table.startswith(f"{len(seen[0])} images, ")
        assert nothing == ""


def test_evaluate_requires_a_classifier_given_in_python(workdir, tmp_path):
    with pytest.raises(ConfigError, match=r"'tiny' that was given in Python.*classifier=\.\.\."):
        evaluate(EvaluateConfig(), tmp_path, [str(workdir / "runs/blur")])


def test_evaluate_progress_counts_the_explained_images(tiny, workdir, tmp_path, capfd):
    run = tmp_path / "blur"
    shutil.copytree(workdir / "runs" / "blur", run)
    forget(run, 0, 1)
    options = EvaluateConfig(
        generator=GeneratorConfig("grey"), baselines=("centre",), curve_steps=1
    )
    evaluate(options, tmp_path / "scores", [str(run)], classifier=tiny)
    printed = capfd.readouterr().err
    assert "| 0/3 " in printed
    assert "| 3/3 " in printed


def test_evaluate_refuses_another_classifier(workdir, tmp_path, tiny):
    other, run = tiny.replace(params=jax.tree.map(jnp.zeros_like, tiny.params)), "runs/blur"
    with pytest.raises(ConfigError, match="same images and classifier"):
        evaluate(EvaluateConfig(), tmp_path, [str(workdir / run)], classifier=other)


@pytest.fixture
def moved(config, workdir, tiny, tmp_path):
    """The copied images of a run, and a function that evaluates the run with the copies."""
    folder = shutil.copytree(config.data.path, tmp_path / "images")

    def evaluate_moved():
        options = EvaluateConfig(
            generator=GeneratorConfig("grey"), baselines=("centre",), curve_steps=1
        )
        run = str(workdir / "runs/blur")
        return evaluate(options, tmp_path / "out", [run], str(folder), classifier=tiny)

    return folder, evaluate_moved


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: relabel(folder, "1.png,1", "1.png,0"), r"1\.png: label 1 then, 0 now"),
        (lambda folder: shutil.copy(folder / "0.png", folder / "3.png"), r"3\.png: other bytes"),
    ],
)
def test_evaluate_refuses_other_images(moved, change, message, tmp_path):
    folder, evaluate_moved = moved
    change(folder)
    with pytest.raises(
        RecordsError, match=rf"(?s)blur holds results of other data.*{message}\nGive"
    ):
        evaluate_moved()
    assert not (tmp_path / "out").exists()


def relabel(folder, row, other):
    table = folder / "manifest.csv"
    assert row in table.read_text()
    table.write_text(table.read_text().replace(row, other))


def test_evaluate_accepts_boxes_added_before_it_but_not_after(moved):
    folder, evaluate_moved = moved
    relabel(folder, "4 4 12 12", "2 2 9 9")
    table = evaluate_moved()
    assert evaluate_moved() == table
    relabel(folder, "1.png,1,2 2 9 9", "1.png,1,2 2 9 8")
    with pytest.raises(RecordsError, match=r"\n  1\.png: other bytes, label or boxes\nPut"):
        evaluate_moved()
    relabel(folder, "2 2 9 8", "2 2 9 9")
    assert evaluate_moved() == table


def test_evaluate_transfers_masks_to_other_classifiers(tiny, workdir, tmp_path):
    """One classifier is the same; the other predicts the least likely class of the first."""
    twin = tiny.replace(name="twin")
    stubborn = tiny.replace(name="stubborn", apply=lambda p, x: -tiny.apply(p, x))
    options = EvaluateConfig(
        generator=GeneratorConfig("local_mean"), baselines=("centre",), curve_steps=1
    )
    runs = [str(workdir / "runs" / name) for name in ("blur", "local_mean")]

    def evaluate_with(*others):
        return evaluate(options, tmp_path, runs, classifier=tiny, transfer_classifiers=others)

    text = evaluate_with(twin, stubborn)
    scores = RecordReader(tmp_path / "scores/sdr_blur")
    photos = RecordReader(tmp_path / "scores/images")
    is_seen = photos.read("target") >= 0
    is_right = is_seen & (photos.read("prediction") == photos.read("target"))
    assert is_right.any()
    cut, held = scores.read("region_success"), scores.read("classifier_transfer_region_success")
    np.testing.assert_array_equal(held[:, 0], np.where(is_right, cut, np.nan))
    assert np.isfinite(cut[is_seen]).all()
    assert np.isnan(held[is_right, 1]).all()
    table = json.loads((tmp_path / "table.json").read_text())
    holds = table["methods"]["all"]["sdr_blur"]["transfer_twin"]
    assert holds["n"] == is_right.sum()
    assert {"transfer_twin", "region_transfer_twin", "region_success"} <= {
        row["metric"] for row in table["differences"] if row["theirs"] == "sdr_local_mean"
    }
    assert "| transfer to twin (higher) |" in text
    # The same classifiers resume the evaluation; others, or none, are another evaluation.
    assert evaluate_with(twin, stubborn) == text
    for others in ([stubborn, twin], [twin], []):
        with pytest.raises(RecordsError, match="transfer_classifiers"):
            evaluate_with(*others)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"transfer": TransferConfig(("lenet=weights",))},
            "contain 'lenet'; expected NAME or NAME=WEIGHTS",
        ),
        (
            {"transfer": TransferConfig(("resnet18=a",) * 2)},
            r"transfer\.classifiers are .* only once",
        ),
        ({"baselines": ("saliency",)}, "expected some of gradient"),
        ({"baselines": ("centre", "centre")}, "only once"),
        ({"curve_steps": 0}, "curve_steps"),
        ({"sanity_images": -1}, "sanity_images"),
    ],
)
def test_evaluate_config_refuses_invalid_values(options, message):
    with pytest.raises(ConfigError, match=message):
        EvaluateConfig(**options).validate()


@pytest.mark.parametrize(
    ("run", "here"),
    [({"crop": 0.95}, {"crop": 1.0}), ({}, {"crop": 0.95})],
)
def test_check_same_refuses_a_classifier_of_other_images(run, here, monkeypatch):
    monkeypatch.setattr(_study, "name_other_id", lambda *_: "")
    records = types.SimpleNamespace(manifest={"classifier": {"name": "net"} | run}, location="run")
    learnt = [types.SimpleNamespace(records=records, name="ssr", run="run")]
    source = types.SimpleNamespace(ids=[])
    with pytest.raises(ConfigError, match="expected the same images and classifier"):
        _study._check_same(learnt, {"classifier": {"name": "net"} | here}, source)

"""Whole runs in this process, with a small network: records and galleries are read back."""

import csv
import dataclasses
import functools
import html.parser
import json
import logging
import os
import pathlib
import shutil
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
import zarr
from PIL import Image
from safetensors.numpy import save_file
from scipy.special import expit

import cfx_jax
from cfx_jax import registry
from cfx_jax.config import (
    BatchConfig,
    Config,
    ConfigError,
    DataConfig,
    ExplainConfig,
    GeneratorConfig,
)
from cfx_jax.config import ClassifierConfig as Named
from cfx_jax.fido.explanation import Status
from cfx_jax.fido.settings import SEARCH_STEPS
from cfx_jax.records import RecordReader, RecordWriter
from cfx_jax.records.manifest import ManifestMismatchError
from cfx_jax.report import page as report
from cfx_jax.runs import runner
from cfx_jax.runs.costs import describe_cost
from cfx_jax.runs.explanations import Explanations
from cfx_jax.runs.preemption import StoppedError, StopRequest
from cfx_jax.runs.solver import Solver

NAMES = ["a.png", "b.png", "broken.jpg", "sub/c.png", "d.png"]
LABELS = [0, 1, 2, 3, -1]


@pytest.fixture(scope="module")
def tiny(random_classifier):
    """A five-class network on 16 x 16 images."""
    return random_classifier.replace(image_size=(16, 16), name="tiny")


@pytest.fixture(scope="module")
def run(tiny):
    """Runs a config with that network."""
    return functools.partial(runner.run, classifier=tiny)


@pytest.fixture(scope="module", autouse=True)
def two_devices():
    """Two devices for a unit of two images; eight devices would compute six rows of padding."""
    two = jax.local_devices()[:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: two)
        yield


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path)


@pytest.fixture(scope="module")
def done(tmp_path_factory, run):
    """A finished run, to be read only; its `photographs` are in the same folder."""
    root = tmp_path_factory.mktemp("done")
    run(config(make_folder(root)), root / "run")
    report.write_report(root / "run")
    return root / "run"


def make_folder(parent):
    """Four images and a broken one, with their labels."""
    root = parent / "photographs"
    (root / "sub").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((20, 24)).save(root / name)
    (root / "broken.jpg").write_bytes(b"no image")
    with (root / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *zip(NAMES, LABELS, strict=True)])
    return root


def config(folder, *, objective="both", batch_size=2, num_steps=3, mode="fast", **data):
    """A short run, by default in the mode whose programs compile fastest."""
    return Config(
        data=DataConfig(source="folder", path=str(folder), resize="stretch", **data),
        explain=ExplainConfig(
            mode=mode, objective=objective, num_steps=num_steps, num_samples=2, mask_size=6
        ),
        generator=GeneratorConfig(name="grey"),
        batch=BatchConfig(per_device_batch_size=batch_size, unit_size=2),
    )


def test_run_records_equal_explain_one(done, tiny):
    reader = RecordReader(done)
    assert reader.ids() == NAMES
    generator = cfx_jax.load_generator("grey")
    image = np.asarray(
        Image.open(done.parent / "photographs/b.png").resize((16, 16), Image.Resampling.BICUBIC)
    )
    key = jax.random.fold_in(jax.random.key(0), zlib.crc32(b"b.png"))
    for objective in ("ssr", "sdr"):
        expected = cfx_jax.explain_one(
            key, tiny, generator, jnp.asarray(image, jnp.float32) / 255, 1,
            objective=objective, mode="fast", num_steps=3, num_samples=2, mask_size=6,
        )  # fmt: skip
        keep = expit(reader.read(f"{objective}_mask_logits")[1].astype(np.float32))
        np.testing.assert_allclose(keep, expected.keep_prob, atol=1e-3)
        for name in ("log_odds_original", "log_odds_infilled", "kept_area", "objective", "trace"):
            found = reader.read(f"{objective}_{name}")[1]
            np.testing.assert_allclose(found, getattr(expected, name), atol=1e-4, err_msg=name)
        assert reader.read(f"{objective}_status")[1] == expected.status
    np.testing.assert_array_equal(reader.read("image")[1], image)


@pytest.mark.slow
def test_run_passes_grey_images_to_a_grey_classifier(folder, tmp_path):
    shapes = {"conv1": (32, 1, 3, 3), "conv2": (64, 32, 3, 3), "fc1": (128, 9216), "fc2": (10, 128)}
    rng = np.random.default_rng(0)
    arrays = {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        weight = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        arrays[f"{name}.weight"] = weight.astype(np.float32)
    save_file(arrays, tmp_path / "digits.safetensors")
    run_config = config(folder, objective="ssr")
    run_config.classifier = Named(name="mnist_cnn", weights=str(tmp_path / "digits.safetensors"))
    run_config.generator = GeneratorConfig(name="vae_digits")
    runner.run(run_config, tmp_path / "run")
    reader = RecordReader(tmp_path / "run")
    assert np.isfinite(np.delete(reader.read("ssr_objective"), 2)).all()
    image = reader.read("image")[0]
    assert image.shape == (28, 28, 3)
    assert image.min() < image.max()
    np.testing.assert_array_equal(image, image[..., :1].repeat(3, axis=-1))


def test_run_gives_an_unreadable_image_a_status(done):
    reader = RecordReader(done)
    assert reader.complete.all()
    statuses = reader.read("ssr_status")
    assert statuses[2] == Status.UNREADABLE
    assert (np.delete(statuses, 2) != Status.UNREADABLE).all()
    assert np.isnan(reader.read("ssr_log_odds_original")[2])
    assert np.isfinite(np.delete(reader.read("ssr_log_odds_original"), 2)).all()
    assert reader.read("label").tolist() == LABELS


def test_run_explains_the_prediction_without_a_label(done):
    reader = RecordReader(done)
    target, prediction = reader.read("target"), reader.read("prediction")
    assert target[:4].tolist() == LABELS[:4]
    assert target[4] == prediction[4] >= 0
    assert reader.read("ssr_status")[4] != Status.MISCLASSIFIED


def test_run_masks_do_not_depend_on_batches_or_other_data(run, done, folder, tmp_path):
    (folder / "manifest.csv").write_text("file,label\nsub/c.png,3\nb.png,1\n")
    run(config(folder, batch_size=1), tmp_path / "run")
    for name in ("ssr_mask_logits", "sdr_mask_logits", "sdr_trace"):
        expected = RecordReader(done).read(name)[[3, 1]]
        found = RecordReader(tmp_path / "run").read(name)
        # Values that differ by rounding may be stored as neighbours of their type.
        step = np.finfo(found.dtype).eps
        np.testing.assert_allclose(found, expected, rtol=step, atol=1e-3, err_msg=name)


def test_run_resumes_after_a_stop(run, done, tmp_path, monkeypatch):
    folder = done.parent / "photographs"
    write = RecordWriter.write_unit
    units = []

    def stop_at_the_second(self, unit, values):
        if len(units) == 1:
            raise KeyboardInterrupt
        units.append(unit)
        write(self, unit, values)

    monkeypatch.setattr(RecordWriter, "write_unit", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(config(folder), tmp_path / "run")
    assert RecordReader(tmp_path / "run").complete.tolist() == [True, True, False, False, False]

    monkeypatch.setattr(
        RecordWriter, "write_unit", lambda self, unit, v: (units.append(unit), write(self, unit, v))
    )
    run(config(folder), tmp_path / "run")
    assert units == [0, 1, 2]
    resumed, undisturbed = RecordReader(tmp_path / "run"), RecordReader(done)
    for field in resumed.fields:
        expected = undisturbed.read(field.name)
        np.testing.assert_array_equal(resumed.read(field.name), expected, err_msg=field.name)


def test_run_with_patience_records_the_steps_of_each_image(run, folder, tmp_path):
    """Skipped steps have no objective; another batch size changes nothing."""
    found = []
    for name, batch_size in (("one", 1), ("two", 2)):
        run_config = config(folder, num_steps=40, batch_size=batch_size, mode="region")
        run_config.explain.patience = 2
        run(run_config, tmp_path / name)
        found.append(RecordReader(tmp_path / name))
    for objective in ("ssr", "sdr"):
        steps, trace = (found[0].read(f"{objective}_{field}") for field in ("steps", "trace"))
        readable = found[0].read(f"{objective}_status") != Status.UNREADABLE
        assert 6 <= steps[readable].min() < 40
        np.testing.assert_array_equal(np.isfinite(trace[readable]).sum(1), steps[readable])
        assert not (trace == 0).any()
    run_of_two = Explanations(tmp_path / "two")
    taken = [run_of_two.read_result(objective, "steps")[readable] for objective in ("ssr", "sdr")]
    mean = round(2 * float(np.sum(np.mean(taken, 1))))  # Two masks per step.
    search = 2 * sum(SEARCH_STEPS) * run_of_two.settings.num_search_masks
    assert describe_cost(run_of_two).endswith(f"{mean + search} evaluations per image")
    for field in found[0].fields:
        first, second = (reader.read(field.name) for reader in found)
        np.testing.assert_allclose(first, second, rtol=2e-3, atol=1e-3, err_msg=field.name)


def test_run_limits_its_batch_to_the_number_of_images(run, folder, tmp_path, caplog):
    caplog.set_level(logging.INFO, "cfx_jax")
    run_config = config(folder, objective="ssr", batch_size=64, max_examples=3)
    run_config.batch.unit_size = 1000
    run(run_config, tmp_path / "run")
    # Three images on two devices.
    assert "batch size: 2 on a device" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: setattr(c.explain, "num_steps", 4), r"num_steps.*3.*4"),
        (lambda c: setattr(c.generator, "name", "blur"), r"generator.*grey.*blur"),
        (lambda c: setattr(c, "seed", 1), r"seed.*0.*1"),
        (lambda c: setattr(c.data, "max_examples", 2), r"num_examples.*5.*2"),
    ],
)
def test_run_refuses_a_folder_of_another_config(run, done, change, message):
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    other = config(done.parent / "photographs")
    change(other)
    with pytest.raises(ManifestMismatchError, match=rf"(?s){message}"):
        run(other, done)
    assert before == {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}


def test_run_resumes_when_the_config_repeats_a_mode_setting(run, done):
    run_config = config(done.parent / "photographs")
    run_config.explain = dataclasses.replace(
        run_config.explain, learning_rate=0.3, smooth_scale=0.0, warm_start_steps=0, patience=0
    )
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    run(run_config, done)
    assert before == {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    run_config.explain.warm_start_steps = 1
    with pytest.raises(ManifestMismatchError, match=r"settings\.warm_start_steps: stored 0, now 1"):
        run(run_config, done)


def test_run_refuses_other_data(run, done):
    other = config(done.parent / "photographs")
    manifest = done.parent / "photographs" / "manifest.csv"
    text = manifest.read_text()
    manifest.write_text(text.replace("a.png", "other.png"))
    named = r"fingerprint[^\n]*\n(.*\n)?  example 0: a\.png then, other\.png now\nChoose"
    with pytest.raises(ManifestMismatchError, match=named):
        run(other, done)
    manifest.write_text(text)


@pytest.fixture
def photographs(done, tmp_path):
    """The photographs of the finished run, restored after the test."""
    shutil.copytree(done.parent / "photographs", tmp_path / "former")
    yield done.parent / "photographs"
    shutil.copytree(tmp_path / "former", done.parent / "photographs", dirs_exist_ok=True)


def relabel(photographs, row, other):
    table = photographs / "manifest.csv"
    assert row in table.read_text()
    table.write_text(table.read_text().replace(row, other))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: relabel(folder, "b.png,1", "b.png,4"), r"b\.png: label 1 then, 4 now"),
        (lambda folder: shutil.copy(folder / "a.png", folder / "b.png"), r"b\.png: other bytes"),
    ],
)
def test_run_refuses_other_examples_under_the_same_names(run, done, photographs, change, message):
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    change(photographs)
    with pytest.raises(
        ManifestMismatchError, match=rf"holds results of other data.*\n  {message}\nP"
    ):
        run(config(photographs), done)
    assert before == {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}


def test_run_accepts_changes_of_unexplained_examples(run, done, photographs, tmp_path):
    """The records equal those of a new run over the changed data."""
    shutil.copytree(done, tmp_path / "run")
    (tmp_path / "run/records.zarr/complete/c/2").unlink()
    (name,) = NAMES[4:]
    relabel(photographs, f"{name},-1", f"{name},2")
    run(config(photographs), tmp_path / "run")
    found, before = RecordReader(tmp_path / "run"), RecordReader(done)
    assert found.read("label").tolist() == [*LABELS[:4], 2]
    assert found.read("target")[4] == 2
    for field in found.fields:
        then, now = (reader.read(field.name)[:4] for reader in (before, found))
        np.testing.assert_array_equal(now, then, err_msg=field.name)


def test_run_explains_an_image_that_appeared_later(run, folder, tmp_path):
    (folder / "b.png").rename(tmp_path / "b.png")
    run_config = config(folder, objective="ssr", num_steps=1)
    run(run_config, tmp_path / "run")
    reader = RecordReader(tmp_path / "run")
    before = reader.read("ssr_status")
    assert before[1] == Status.UNREADABLE
    (tmp_path / "b.png").rename(folder / "b.png")
    run(run_config, tmp_path / "run")
    assert reader.read("ssr_status")[1] != Status.UNREADABLE
    assert reader.complete.all()
    assert (np.delete(reader.read("ssr_status"), 1) == np.delete(before, 1)).all()


def test_run_resumes_with_another_batch_size_and_page_length(run, done, tmp_path):
    shutil.copytree(done, tmp_path / "run")
    other = config(done.parent / "photographs", batch_size=1)
    run(other, tmp_path / "run")
    # An existing gallery keeps its number of images.
    shutil.rmtree(tmp_path / "run" / "report", ignore_errors=True)
    page = pathlib.Path(report.write_report(tmp_path / "run", max_images=1)).read_text()
    assert page.count('src="images/0/0/0.webp"') == 7
    assert page.count('src="images/') == 7


def test_run_records_are_readable_by_other_libraries(done):
    store = done / "records.zarr"
    group = zarr.open_group(store, mode="r")
    assert group["ssr_mask_logits"].shape == (5, 6, 6)
    assert group["ssr_mask_logits"].dtype == np.float16
    assert group["sdr_trace"].shape == (5, 3)
    dataset = xarray.open_zarr(store)
    assert dataset["sdr_mask_logits"].dims == ("example", "cell_y", "cell_x")
    assert dataset["example"].values.tolist() == RecordReader(done).ids()
    assert dataset["ssr_status"].attrs["flag_meanings"].split()[5] == "unreadable"
    assert dataset["ssr_kept_area"].attrs == {"long_name": "share of pixels kept"}
    assert [name for name, array in dataset.items() if not array.attrs.get("long_name")] == []
    assert dataset.attrs["status_names"][0] == "ok"
    assert dataset["ssr_kept_area"].values[0] == group["ssr_kept_area"][0]
    manifest = json.loads((done / "manifest.json").read_text())
    assert manifest["config"]["explain"]["num_steps"] == 3
    assert manifest["dataset"]["num_examples"] == 5
    assert len(manifest["classifier"]["weights_digest"]) == 64


class Links(html.parser.HTMLParser):
    """Collects the links of a web page."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href")]


def test_run_page_links_resolve_after_a_move(done, tmp_path):
    shutil.copytree(done, tmp_path / "moved")
    page = tmp_path / "moved" / "report" / "index.html"
    text = page.read_text()
    links = Links(text).found
    assert len({link for link in links if link.endswith(".webp")}) == 4
    for link in links:
        assert (page.parent / link).is_file()
        if link.endswith((".png", ".webp")):
            Image.open(page.parent / link).load()
    assert "5 of 5 images" in report.summary(tmp_path / "moved")


def test_run_without_pictures_records_none(run, folder, tmp_path):
    small = config(folder, objective="sdr")
    small.report.save_images = False
    run(small, tmp_path / "run")
    names = {field.name for field in RecordReader(tmp_path / "run").fields}
    assert not {"image", "sdr_infilled"} & names
    assert not [name for name in names if name.startswith("ssr")]


def test_run_names_a_label_unknown_to_the_classifier(run, folder, tmp_path):
    (folder / "manifest.csv").write_text("file,label\na.png,1\nb.png,5\n")
    with pytest.raises(ConfigError, match=r"line 3: label '5' is no class: .* classes 0 to 4"):
        run(config(folder), tmp_path / "run")
    run_config = config(folder)
    run_config.data = DataConfig()
    with pytest.raises(ConfigError, match=r"'coffee' has label 967.*'tiny' has classes 0 to 4"):
        run(run_config, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: setattr(c.generator, "name", "magic"), "magic.*blur, .*grey, local_mean"),
        (lambda c: setattr(c.explain, "mask_size", 17), "17 x 17 cells.*16 x 16.*mask_size=16"),
        (lambda c: setattr(c.explain, "num_steps", 0), "num_steps is 0"),
        (lambda c: setattr(c.data, "path", "/no/such/folder"), "/no/such/folder"),
    ],
)
def test_run_with_an_invalid_config_creates_no_folder(run, folder, tmp_path, change, message):
    wrong = config(folder)
    change(wrong)
    with pytest.raises(ConfigError, match=rf"(?s){message}"):
        run(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_run_identifies_given_models_by_name_and_weights(run, tiny, done, fill_half, tmp_path):
    manifest = RecordReader(done).manifest
    section = dataclasses.asdict(Named("tiny"))
    assert manifest["config"]["classifier"] == json.loads(json.dumps(section))
    assert manifest["classifier"] == registry.identity(tiny)
    run_config = config(done.parent / "photographs")
    with pytest.raises(ManifestMismatchError, match=r"config\.generator\.name.*grey.*half"):
        run(run_config, done, generator=fill_half)
    other = tiny.replace(params=jax.tree.map(lambda leaf: leaf + 1, tiny.params))
    with pytest.raises(ManifestMismatchError, match=r"(?s)\n  classifier\.weights_digest[^\n]*\nC"):
        runner.run(run_config, done, classifier=other)


def test_run_refuses_a_generator_that_gives_no_pixels(run, done, fill_half, tmp_path):
    run_config = config(done.parent / "photographs")
    bad = fill_half.replace(apply=lambda params, images, mask, key: 2 * images - 1, name="bad")
    with pytest.raises(ConfigError, match=r"'bad' fills with values over .*; expected \[0, 1\]"):
        run(run_config, tmp_path / "run", generator=bad)
    # The refused run leaves no folder that would reject another generator.
    run(run_config, tmp_path / "run", generator=fill_half.replace(name="good"))


@pytest.mark.parametrize(
    ("is_broken", "level", "expected"),
    [
        (False, logging.INFO, "classifier checked: ok"),
        (True, logging.WARNING, "classifier checked: outputs are probabilities"),
    ],
)
def test_run_checks_its_classifier_once(tiny, folder, tmp_path, caplog, is_broken, level, expected):
    def softmax(params, images):
        return jax.nn.softmax(tiny.apply(params, images))

    model = tiny.replace(apply=softmax) if is_broken else tiny
    (folder / "manifest.csv").write_text("file\nbroken.jpg\na.png\nb.png\nd.png\n")
    caplog.set_level(logging.INFO, "cfx_jax")
    run_config = config(folder, objective="ssr", num_steps=1)
    runner.run(run_config, tmp_path / "run", classifier=model)
    (record,) = (record for record in caplog.records if "checked" in record.getMessage())
    assert record.getMessage().startswith(expected)
    assert record.levelno == level
    assert f"{record.levelname} {expected}" in (tmp_path / "run" / "log").read_text()


def test_run_accepts_class_names_as_labels(tiny, folder, tmp_path):
    (folder / "manifest.csv").write_text("File; Label\na.png; Fox\nb.png; red_deer\n")
    names = ("cat", "dog", "fox", "deer, red deer", "owl")
    model = tiny.replace(class_names=names)
    runner.run(config(folder, objective="ssr", num_steps=1), tmp_path / "run", classifier=model)
    assert RecordReader(tmp_path / "run").read("label").tolist() == [2, 3]


def test_run_log_continues_when_resumed(run, folder, tmp_path):
    run_config = config(folder, objective="ssr", num_steps=1)
    run(run_config, tmp_path / "run")
    log = tmp_path / "run" / "log"
    first = log.read_text()
    assert "WARNING unreadable image, recorded as such: broken.jpg" in first
    run(run_config, tmp_path / "run")
    assert log.read_text() == first, "nothing was left to do"
    (tmp_path / "run/records.zarr/ssr_status/c/0").write_bytes(b"damaged")
    run(run_config, tmp_path / "run")
    assert log.read_text().startswith(first)
    assert "WARNING unit 0 is damaged, and computed again: {'ssr_status'" in log.read_text()
    with pytest.raises(ManifestMismatchError):
        run(config(folder, objective="sdr"), tmp_path / "run")
    assert "sdr" not in log.read_text(), "a run that is refused changes nothing"


def test_run_distinguishes_names_that_are_not_utf8(run, folder, tmp_path):
    (folder / "manifest.csv").unlink()
    raw = os.fsencode(folder) + b"/caf\xe9.png"
    shutil.copy(os.fsencode(folder / "a.png"), raw)
    run(config(folder, objective="ssr"), tmp_path / "run")
    reader = RecordReader(tmp_path / "run")
    assert r"caf\xe9.png" in reader.ids()
    assert len(set(reader.ids())) == 6
    assert reader.read("ssr_status").tolist().count(Status.UNREADABLE) == 1


def test_run_of_only_unreadable_images_fails_with_a_page(run, tmp_path):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "a.png").write_bytes(b"")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"^0 of 1 images readable; the warnings above"):
            run(config(tmp_path / "photographs"), tmp_path / "run")
    page = report.write_report(tmp_path / "run")
    assert "could not be decoded" in pathlib.Path(page).read_text()
    assert "unreadable" in report.summary(tmp_path / "run")


@pytest.mark.slow
def test_run_continues_in_smaller_batches_when_out_of_memory(
    run, done, tmp_path, monkeypatch, caplog
):
    """Memory suffices for one image: a batch of four fails during the run, two at compilation."""
    call, compile_, compiled, calls = Solver._call, Solver.compile, [], []
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    def compile_with_little_memory(self, size):
        compiled.append(size)
        needed = compile_(self, size)
        if size == 2:
            raise error
        return needed

    def call_with_little_memory(self, pool):
        calls.append(self.per_device_batch_size)
        if len(calls) > 2 and self.per_device_batch_size > 1:
            raise error
        return call(self, pool)

    monkeypatch.setattr(Solver, "compile", compile_with_little_memory)
    monkeypatch.setattr(Solver, "_call", call_with_little_memory)
    one = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: one)
    run_config = config(done.parent / "photographs", batch_size=4)
    run_config.batch.unit_size = 4
    run(run_config, tmp_path / "run")
    assert compiled == [4, 2, 1]
    assert calls[:4] == [4, 4, 4, 1]
    for size, half in ((4, 2), (2, 1)):
        assert f"with {size} images per device; continuing with {half}" in caplog.text
    found, expected = RecordReader(tmp_path / "run"), RecordReader(done)
    assert found.complete.all()
    keep = found.read("ssr_mask_logits").astype(float)
    np.testing.assert_allclose(keep, expected.read("ssr_mask_logits").astype(float), atol=1e-3)


def test_run_ends_on_an_error_unrelated_to_memory(run, folder, tmp_path, monkeypatch):
    def fail(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: the device is gone")

    monkeypatch.setattr(Solver, "_call", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="the device is gone"):
        run(config(folder), tmp_path / "run")


def test_run_stops_on_request_between_programs(run, done, tmp_path):
    run_config = []

    class StopAfter(StopRequest):
        def check(self):
            run_config.append(1)
            if len(run_config) == 5:
                self.deadline = 0.0
            super().check()

    stop = StopAfter()
    with pytest.raises(StoppedError, match="resume with the same command"):
        run(config(done.parent / "photographs"), tmp_path / "run", stop)
    kept = RecordReader(tmp_path / "run").complete
    assert 0 < kept.sum() < 5, "what was explained before is written"
    run(config(done.parent / "photographs"), tmp_path / "run")
    assert RecordReader(tmp_path / "run").complete.all()


def test_run_in_bfloat16_is_close_and_another_identity(run, done, folder, tmp_path):
    half = config(folder)
    half.precision = "bfloat16"
    run(half, tmp_path / "run")
    for name, tolerance in (("ssr_log_odds_original", 0.2), ("ssr_kept_area", 0.02)):
        found = RecordReader(tmp_path / "run").read(name)
        np.testing.assert_allclose(found, RecordReader(done).read(name), atol=tolerance)
    for precision in ("float32", "auto"):  # On CPU the same.
        run_config = config(folder)
        run_config.precision = precision
        with pytest.raises(ManifestMismatchError, match=r"precision.*bfloat16.*float32"):
            run(run_config, tmp_path / "run")

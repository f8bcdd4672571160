"""Tables of stores with known numbers: missing values do not count."""

import dataclasses
import json
import types

import numpy as np
import pytest

from cfx_jax.config import Config, ExplainConfig, ReportConfig
from cfx_jax.evaluate._tables import write_tables
from cfx_jax.evaluate.measures import Baseline, Learnt, Reference
from cfx_jax.fido.settings import get_settings
from cfx_jax.records import Field, RecordsError, RecordWriter, encode_ids
from cfx_jax.runs.explanations import Explanations, make_fields

N, INFILLS, CLASSIFIERS = 6, ("grey",), ("twin", "resnet18=a/b")
SCORER = types.SimpleNamespace(num_infills=1, curve_steps=2, num_transfer_classifiers=2)
ID = Field("id", "uint8", (1,))
EXPLAIN = ExplainConfig("ssr", mask_size=2, num_steps=1)
CONFIG = Config(explain=EXPLAIN, report=ReportConfig(save_images=False))
_, *RUN_FIELDS = make_fields(CONFIG, ["a"], (2, 2))
MANIFEST = {
    "objectives": ["ssr"],
    "status_names": ["ok"],
    "settings": dataclasses.asdict(get_settings("fast", num_steps=1, mask_size=2))
    | {"relaxation": "concrete"},
}


def write_store(folder, fields, known, manifest=None):
    """Writes records of six images in units of four; fields that are not given are 0."""
    values = {f.name: np.zeros((N, *f.shape), f.dtype) for f in fields}
    values |= {"id": encode_ids([*"abcdef"], 1)} | known
    with RecordWriter(folder, manifest or {}, [ID, *fields], N, unit_size=4) as writer:
        for unit in writer.missing_units():
            start, stop = writer.unit_range(unit)
            cut = {f.name: np.asarray(values[f.name][start:stop], f.dtype) for f in [ID, *fields]}
            writer.write_unit(unit, cut)


@pytest.fixture
def tables(tmp_path):
    """Writes the tables of one method and of two restarts of a run, on six images with a box."""

    def make(labels, logits=(), target=0, photos=None, learnt=None, **known):
        found = {"label": np.asarray(labels), "num_boxes": np.ones(N), "prediction": np.ones(N)}
        found |= {"target": np.full(N, target)} | (photos or {})
        write_store(tmp_path / "images", Reference().fields(SCORER), found)
        stores = {"images": str(tmp_path / "images")}
        fields = Baseline("centre", "blur", 0).fields(SCORER)
        write_store(tmp_path / "centre", fields, known)
        stores["centre"] = str(tmp_path / "centre")
        runs = []
        for seed, values in enumerate(logits):
            folder = tmp_path / f"run{seed}"
            manifest = MANIFEST | {"config": {"seed": seed}}
            write_store(folder, RUN_FIELDS, {"ssr_mask_logits": values}, manifest)
            runs.append(Learnt(f"run{seed}", Explanations(folder), "ssr"))
            write_store(tmp_path / runs[-1].name, runs[-1].fields(SCORER), learnt or {})
            stores[runs[-1].name] = str(tmp_path / runs[-1].name)
        text = write_tables(tmp_path, stores, INFILLS, CLASSIFIERS, runs)
        return text, json.loads((tmp_path / "table.json").read_text())

    return make


def test_tables_accuracy_ignores_images_without_a_label(tables):
    text, table = tables([1, 1, 1, 0, -1, -1])
    assert "6 images, top-1 accuracy 75.0% of 4 with a label." in text
    # All boxes are found, so the official error is that of the classifier.
    official = table["methods"]["all"]["centre"]["official_error"]
    assert (official["n"], official["mean"]) == (4, 0.25)


def test_tables_have_no_accuracy_without_labels(tables):
    text, table = tables([-1] * N)
    assert "6 images, none with a label." in text
    assert table["top_1"] is None
    assert table["methods"]["all"]["centre"]["error"]["n"] == N
    assert "official_error" not in table["methods"]["all"]["centre"]


def test_tables_have_no_variance_for_missing_masks(tables):
    """Some images could not be read or explained; one pair of masks differs by 1/2."""
    ours, theirs = np.full((2, N, 2, 2), np.nan)
    assert tables([1] * N, [ours, theirs])[1]["restart_variance"] == []


def test_tables_restart_variance_uses_the_masks_present(tables):
    ours, theirs = np.zeros((2, N, 2, 2))
    ours[0], theirs[0], ours[1] = 20.0, -20.0, np.nan
    (row,) = tables([1] * N, [ours, theirs])[1]["restart_variance"]
    assert (row["runs"], row["n"]) == (["ssr_run0", "ssr_run1"], N - 1)
    assert row["mean"] == pytest.approx(0.5 / (N - 1), abs=1e-6)


def test_tables_transfer_columns_use_correctly_classified_images(tables):
    rates = np.full((N, 2), 0.25)
    rates[2:, 1] = np.nan
    text, table = tables(
        [1] * N, [np.zeros((N, 2, 2))],
        learnt={
            "classifier_transfer_success_rate": rates,
            "classifier_transfer_region_success": np.round(rates),
            "region_success": np.ones(N),
        },
    )  # fmt: skip
    found = table["methods"]["all"]["ssr_run0"]
    assert (found["transfer_twin"]["n"], found["transfer_twin"]["mean"]) == (N, 0.25)
    assert (found["transfer_resnet18=a/b"]["n"], found["region_transfer_resnet18=a/b"]["mean"]) == (
        2,
        0.0,
    )
    assert found["region_success"]["mean"] == 1.0
    learnt = text.partition("### Learnt masks")[2].partition("###")[0]
    for title in (
        "region success",
        "transfer to twin",
        "region transfer to twin",
        "transfer to resnet18=a/b",
    ):
        assert f"| {title} (higher) |" in learnt
    assert "transfer_twin" not in table["methods"]["all"]["centre"]


def test_tables_compare_boxes_with_the_centre_box(tables):
    """The centre box misses one of five; the map misses all at its mean and none at 1/2."""
    missed = np.asarray([0, 0, 1, 0, 0, np.nan])
    _, table = tables(
        [1] * N, photos={"centre_error": missed}, error=np.ones(N), half_error=np.zeros(N)
    )
    found = {
        row["metric"]: row for row in table["differences"]
        if (row["subset"], row["ours"], row["theirs"]) == ("all", "centre", "box: centre")
    }  # fmt: skip
    assert {name: (row["n"], row["mean"]) for name, row in found.items()} == {
        "error": (5, pytest.approx(0.8)),
        "half_error": (5, pytest.approx(-0.2)),
        "smooth_error": (5, pytest.approx(-0.2)),
        "crop": (6, 0.0),
    }
    assert found["error"]["low"] < 0.8 < found["error"]["high"]


def test_tables_draw_no_unknown_curves(tables):
    nothing = np.full((N, 1, 3), np.nan)
    _, table = tables([1] * N, deletion=nothing, insertion=nothing)
    assert "deletion_grey" not in table["methods"]["all"]["centre"]


def test_tables_refuse_images_that_no_method_measured(tables):
    with pytest.raises(RecordsError, match="continue the runs"):
        tables([1] * N, target=-1)

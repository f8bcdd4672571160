"""The progress of a run, and damage in its records."""

import dataclasses
import gzip
import re

import numpy as np
import pytest

from cfx_jax.config import Config, ExplainConfig, ReportConfig
from cfx_jax.records import RecordReader, RecordsError, RecordWriter, encode_ids
from cfx_jax.runs.checking import describe_progress, find_problems
from cfx_jax.runs.explanations import make_fields


def test_describe_progress_of_a_finished_run(make_run):
    assert describe_progress(make_run()).splitlines() == [
        "5 of 5 examples done (100.0%), 3 of 3 units",
        "SSR: 2 ok, 1 misclassified, 1 non_finite, 1 unreadable",
        "SDR: 2 ok, 1 not_flipped, 1 not_preserved, 1 unreadable",
        "cost: 6 evaluations per image",
        "2 failed:",
        "  café ☕.png",
        "  =1+1",
    ]


def test_describe_progress_of_a_run_in_progress(make_run):
    run = make_run(units=[2])
    reader = RecordReader(run)
    with RecordWriter(run, reader.manifest, reader.fields, 5, 2):
        lines = describe_progress(run).splitlines()
    assert lines == [
        "1 of 5 examples done (20.0%), 1 of 3 units; a run is writing to it now",
        "SSR: 1 ok",
        "SDR: 1 not_preserved",
        "cost: 6 evaluations per image",
    ]
    assert "writing" not in describe_progress(run)


BROKEN_OFF = gzip.compress(b"text" * 99, mtime=0)[:-9]


@pytest.mark.parametrize("content", [None, b"", b"no gzip", BROKEN_OFF])
def test_find_problems_checks_the_texts_of_ids(content, make_run):
    run = make_run()
    before, reader = list(find_problems(run)), RecordReader(run)
    (run / "records.zarr/zarr.json").unlink()
    RecordWriter(run, reader.manifest, reader.fields, 5, 2, ids=reader.ids()).close()
    assert list(find_problems(run)) == before
    texts = run / "records.zarr/example/c/0"
    texts.unlink()
    if content is not None:
        texts.write_bytes(content)
    problem, *others = find_problems(run)
    assert others == before
    assert problem.startswith(f"{run}/records.zarr/zarr.json: damaged (")
    assert problem.endswith("delete it; the run writes it again")


def test_describe_progress_of_a_run_without_records(make_run):
    lines = describe_progress(make_run(units=[])).splitlines()
    assert lines == ["0 of 5 examples done (0.0%), 0 of 3 units", "SSR: nothing yet",
                     "SDR: nothing yet", "cost: 6 evaluations per image"]  # fmt: skip


def test_describe_progress_counts_many_failures(tmp_path):
    """The run has 50,000 examples."""
    number = 50_000
    explain = ExplainConfig("ssr", mode="fast", mask_size=1, num_steps=1)
    fields = make_fields(Config(explain=explain, report=ReportConfig(False)), ["12345"], (1, 1))
    manifest = {
        "objectives": ["ssr"],
        "status_names": ["ok", "unreadable"],
        "settings": dataclasses.asdict(explain.settings()) | {"relaxation": "concrete"},
    }
    with RecordWriter(tmp_path, manifest, fields, number, unit_size=5000) as writer:
        for unit in writer.missing_units():
            index = np.arange(*writer.unit_range(unit))
            values = {f.name: np.zeros((len(index), *f.shape), f.dtype) for f in fields}
            values["id"] = encode_ids([f"{i}" for i in index], 5)
            values["ssr_status"][:] = index % 2
            writer.write_unit(unit, values)
    lines = describe_progress(tmp_path).splitlines()
    assert lines[:2] == ["50,000 of 50,000 examples done (100.0%), 10 of 10 units",
                         "SSR: 25,000 ok, 25,000 unreadable"]  # fmt: skip
    assert lines[3] == "25,000 failed:"
    assert lines[4:] == [*(f"  {2 * i + 1}" for i in range(20)), "  ... and 24,980 more"]


def test_find_problems_accepts_sound_records(make_run):
    assert list(find_problems(make_run())) == []
    assert list(find_problems(make_run(units=[]))) == []


def damage(path):
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda store: damage(store / "ssr_mask_logits/c/1/0/0"),
         r"unit 1 \(examples 2 to 3\): ssr_mask_logits: .*checksum"),
        (lambda store: (store / "id/c/2/0").unlink(), r"unit 2 \(examples 4 to 4\): id: NOT_FOUND"),
        (lambda store: (store / "sdr_status/c/0").write_bytes(b""), "unit 0 .*: sdr_status: "),
        (lambda store: (store / "zarr.json").unlink(), r"zarr\.json: damaged"),
        (lambda store: (store / "zarr.json").write_text("{"), r"zarr\.json: damaged"),
        (lambda store: (store / "zarr.json").write_text("[]"), r"zarr\.json: damaged"),
    ],
)  # fmt: skip
def test_find_problems_names_damaged_records(make_run, break_it, expected):
    run = make_run()
    break_it(run / "records.zarr")
    [problem] = find_problems(run)
    assert re.search(expected, problem), problem


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ids": ["a", "b", "c", "b", "e"]},
         "unit 1 (examples 2 to 3): example 3 has the id of example 1, 'b'"),
        ({"ids": ["a", "b", "", "d", "e"]}, "unit 1 (examples 2 to 3): example 2 has no id"),
        ({"statuses": {"ssr": [0] * 5, "sdr": [0, 0, 0, 0, 9]}},
         "unit 2 (examples 4 to 4): sdr_status: unknown status 9"),
    ],
)  # fmt: skip
def test_find_problems_names_impossible_values(make_run, options, expected):
    assert list(find_problems(make_run(**options))) == [expected]


def test_describe_progress_refuses_a_folder_without_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no manifest\.json"):
        describe_progress(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(RecordsError, match="not valid JSON"):
        list(find_problems(tmp_path))

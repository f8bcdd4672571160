"""What a run keeps, and its one reader."""

import dataclasses

import numpy as np
import pytest

from cfx_jax.fido.masks import MaskLaw, Relaxation
from cfx_jax.fido.settings import MODES
from cfx_jax.records import Field, RecordsError, RecordWriter
from cfx_jax.runs.explanations import Explanations

LEARNT = {"objectives": ["ssr"]}
NAMES = {"status_names": ["ok"]}
OF_THE_FIRST_VERSION = [
    "ok", "misclassified", "not_flipped", "not_preserved", "non_finite", "unreadable"
]  # fmt: skip
SETTINGS = {"settings": {"relaxation": "deterministic", "temperature": 0.1}}


def test_a_run_tells_what_it_holds(make_run):
    run = Explanations(make_run(units=[0]))
    assert (run.objectives, run.class_names[:2]) == (("ssr", "sdr"), ("cat", "dog"))
    assert run.has_pictures
    assert run.complete_units == [0]
    np.testing.assert_array_equal(run.read_result("sdr", "kept_area", 0, 2), [0, 0.125])
    assert run.read_result("ssr", "infilled").shape == (5, 8, 8, 3)
    assert [run.status_name(code) for code in (1, 7, -1)] == [
        "misclassified", "unknown status 7", "unknown status -1"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ({}, {}),
        ({"block_size": 5}, {"block_size": 5}),
        ({"smooth_scale": 0.2, "sharpness": 3.0}, {"smooth_scale": 0.2}),
        ({"sharpness": 3.0, "success_target": 0.9}, {"sharpness": 3.0}),
    ],
)
def test_the_law_is_that_of_the_settings_and_plain_where_they_name_none(make_run, stored, expected):
    settings = {"relaxation": "concrete", "temperature": 0.3} | stored
    law = Explanations(make_run(settings=settings)).mask_law
    assert law == MaskLaw(Relaxation.CONCRETE, 0.3, **expected)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_the_law_read_is_the_law_learnt_with(make_run, mode):
    described = dataclasses.asdict(MODES[mode]) | {"relaxation": MODES[mode].relaxation.value}
    assert Explanations(make_run(settings=described)).mask_law == MODES[mode].mask_law


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        ({"part": {"kind": "images"}}, r"the manifest's objectives are \[\], not of \['ssr', 'sdr"),
        ({"objectives": ["lime"]} | NAMES, r"the manifest's objectives are \['lime'\]"),
        (LEARNT, "the manifest has no status_names"),
        (LEARNT | NAMES, "settings do not say how masks are drawn"),
        (LEARNT | NAMES | SETTINGS, "there is no prediction"),
    ],
)
def test_other_records_are_refused_in_one_line(tmp_path, manifest, expected):
    """A folder of scores that an evaluation has written, for example."""
    fields = [Field("id", "uint8", (4,)), *(Field(n, "int32") for n in ("label", "target"))]
    RecordWriter(tmp_path, manifest, fields, 1, 1).close()
    with pytest.raises(RecordsError, match=expected) as caught:
        Explanations(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path} holds records of id, label, target")
    assert message.endswith("expected the workdir of python -m cfx_jax.main")
    assert "\n" not in message


def test_a_run_without_pictures_has_none(make_run):
    assert not Explanations(make_run(pictures=False)).has_pictures


@pytest.mark.parametrize(
    ("names", "later"),
    [
        (OF_THE_FIRST_VERSION, "infill_suffices"),
        (["ok", "unreadable"], "unknown status 6"),
    ],
)
def test_statuses_that_came_later_have_their_names(names, later, make_run):
    run = Explanations(make_run(units=[0], status_names=names))
    assert run.status_names[: len(names)] == tuple(names)
    assert run.status_name(6) == later

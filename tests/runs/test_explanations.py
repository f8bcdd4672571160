"""The records of a run, and their reader."""

import dataclasses

import numpy as np
import pytest

from cfx_jax.fido.settings import MODES
from cfx_jax.records import Field, RecordsError, RecordWriter
from cfx_jax.runs.explanations import Explanations

LEARNT = {"objectives": ["ssr"]}
NAMES = {"status_names": ["ok"]}
SETTINGS = dataclasses.asdict(MODES["fast"]) | {"relaxation": "concrete"}


def test_explanations_describe_the_run(make_run):
    run = Explanations(make_run(units=[0]))
    assert (run.objectives, run.class_names[:2]) == (("ssr", "sdr"), ("cat", "dog"))
    assert run.has_pictures
    assert run.complete_units == [0]
    np.testing.assert_array_equal(run.read_result("sdr", "kept_area", 0, 2), [0, 0.125])
    assert run.read_result("ssr", "infilled").shape == (5, 8, 8, 3)
    assert [run.status_name(code) for code in (1, 7, -1)] == [
        "misclassified", "unknown status 7", "unknown status -1"
    ]  # fmt: skip


@pytest.mark.parametrize("mode", sorted(MODES))
def test_explanations_return_the_settings_of_the_run(make_run, mode):
    described = dataclasses.asdict(MODES[mode]) | {"relaxation": MODES[mode].relaxation.value}
    assert Explanations(make_run(settings=described)).settings == MODES[mode]


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        ({"part": {"kind": "images"}}, r"the manifest's objectives are \[\], not of \['ssr', 'sdr"),
        ({"objectives": ["lime"]} | NAMES, r"the manifest's objectives are \['lime'\]"),
        (LEARNT, "the manifest has no status_names"),
        (LEARNT | NAMES, "settings lack, or have in addition, alternatives, block_size, "),
        (LEARNT | NAMES | {"settings": SETTINGS}, "there is no prediction"),
        (
            LEARNT | NAMES | {"settings": SETTINGS | {"momentum": 0.9}},
            "settings lack, or have in addition, momentum;",
        ),
    ],
)
def test_explanations_refuse_other_records_in_one_line(tmp_path, manifest, expected):
    """The folder holds the scores of an evaluation."""
    fields = [Field("id", "uint8", (4,)), *(Field(n, "int32") for n in ("label", "target"))]
    RecordWriter(tmp_path, manifest, fields, 1, 1).close()
    with pytest.raises(RecordsError, match=expected) as caught:
        Explanations(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path} contains records of id, label, target")
    assert message.endswith("repeat a run of another version in another --workdir")
    assert "\n" not in message


def test_explanations_of_a_run_without_pictures(make_run):
    assert not Explanations(make_run(pictures=False)).has_pictures

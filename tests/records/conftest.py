"""A small run whose records are known, to be looked at, checked and exported."""

import numpy as np
import pytest

from cfx_jax.records import Field, RecordWriter, encode_ids

STATUS_NAMES = ["ok", "misclassified", "not_flipped", "not_preserved", "non_finite", "unreadable"]
IDS = ["a.png", "deep/../b c.png", "café ☕.png", "=1+1", "e" * 150]
STATUSES = {"ssr": [0, 1, 5, 4, 0], "sdr": [0, 2, 5, 0, 3]}
MANIFEST = {
    "objectives": ["ssr", "sdr"],
    "status_names": STATUS_NAMES,
    "class_names": ["cat", "dog", "cup, with a comma"],
}


def values(start, stop, ids=IDS, statuses=STATUSES, pictures=True):
    """Content known from the index of an example."""
    index = np.arange(start, stop)
    found = {
        "id": encode_ids(ids[start:stop], 160),
        "label": (index % 4 - 1).astype(np.int32),
        "target": (index % 3).astype(np.int32),
        "prediction": (index % 2).astype(np.int32),
    }
    if pictures:
        found["image"] = np.full((stop - start, 8, 8, 3), 255, np.uint8)
    for objective, codes in statuses.items():
        code = np.asarray(codes[start:stop], np.int8)
        masks = np.tile(np.asarray([[-9, 9], [0, 0]], np.float16), (stop - start, 1, 1))
        masks[code == 5] = np.nan
        found |= {
            f"{objective}_status": code,
            f"{objective}_mask_logits": masks,
            f"{objective}_kept_area": np.where(code == 5, np.nan, index / 8).astype(np.float32),
        }
    return found


@pytest.fixture
def make_run(tmp_path):
    """Writes a run with two examples a unit; returns its folder."""

    def make(units=(0, 1, 2), manifest=MANIFEST, **options):
        content = values(0, 2, **options)
        fields = [Field(n, v.dtype.name, v.shape[1:]) for n, v in content.items()]
        with RecordWriter(tmp_path / "run", manifest, fields, 5, unit_size=2) as writer:
            for unit in units:
                writer.write_unit(unit, values(*writer.unit_range(unit), **options))
        return tmp_path / "run"

    return make

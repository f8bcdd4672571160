"""The exported table of a run, read by other libraries, and its pictures."""

import csv

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from cfx_jax.report.export import export_pictures, export_table
from cfx_jax.runs.explanations import SCALARS

IDS = ["a.png", "deep/../b c.png", "café ☕.png", "=1+1", "e" * 150]


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_export_table_has_a_row_per_example(make_run, tmp_path, kind):
    path = export_table(make_run(), tmp_path / "new" / "out", kind)
    assert path == tmp_path / "new" / "out" / f"explanations.{kind}"
    parquet = kind == "parquet"
    table = pyarrow.parquet.read_table(path).to_pydict() if parquet else read_csv(path)
    assert list(table) == [
        "id", "label", "label_name", "target", "target_name", "prediction", "prediction_name",
        *(f"ssr_{name}" for name in ("status", *SCALARS)),
        *(f"sdr_{name}" for name in ("status", *SCALARS)),
    ]  # fmt: skip
    assert table["id"] == IDS
    assert [int(label) for label in table["label"]] == [-1, 0, 1, 2, -1]
    assert table["label_name"] == ["", "cat", "dog", "cup, with a comma", ""]
    assert table["ssr_status"] == ["ok", "misclassified", "unreadable", "non_finite", "ok"]
    areas = np.asarray(table["sdr_kept_area"], float)
    np.testing.assert_array_equal(areas, [0, 0.125, np.nan, 0.375, 0.5])


def test_export_table_exports_complete_units_one_by_one(make_run, tmp_path):
    path = export_table(make_run(units=[0, 2]), tmp_path)
    assert pyarrow.parquet.read_table(path)["id"].to_pylist() == [IDS[0], IDS[1], IDS[4]]
    assert pyarrow.parquet.ParquetFile(path).num_row_groups == 2


def test_export_table_without_class_names_has_numbers(make_run, tmp_path):
    changes = {"status_names": ["fine"], "class_names": None}
    table = pyarrow.parquet.read_table(export_table(make_run(**changes), tmp_path))
    assert "label_name" not in table.column_names
    assert table["ssr_status"].to_pylist()[:2] == ["fine", "unknown status 1"]


def test_export_table_overwrites_nothing_and_leaves_no_partial_file(make_run, tmp_path):
    run = make_run()
    path = export_table(run, tmp_path, "csv")
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        export_table(run, tmp_path, "csv")
    assert path.read_bytes() == before
    (run / "records.zarr/ssr_status/c/2").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="ssr_status"):
        export_table(run, tmp_path, "parquet")
    assert not (tmp_path / "explanations.parquet").exists()


def test_export_pictures_show_the_mask_over_the_photograph(make_run, tmp_path):
    assert export_pictures(make_run(), tmp_path / "out") == 8
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names[:4] == [
        "000000-a.png-sdr.png",
        "000000-a.png-ssr.png",
        "000001-deep_.._b_c.png-sdr.png",
        "000001-deep_.._b_c.png-ssr.png",
    ]
    assert all(len(name) < 100 for name in names)
    ssr, sdr = (np.asarray(Image.open(tmp_path / "out" / f"000000-a.png-{o}.png")).astype(int)
                for o in ("ssr", "sdr"))  # fmt: skip
    assert ssr.shape == (8, 8, 3)
    # The first row keeps its right: important to SSR, and its left to SDR.
    assert ssr[0, -1].sum() > ssr[0, 0].sum()
    assert sdr[0, -1].sum() < sdr[0, 0].sum()


def test_export_pictures_without_photographs(make_run, tmp_path):
    assert export_pictures(make_run(pictures=False, units=[0]), tmp_path / "out") == 4
    with Image.open(tmp_path / "out/000000-a.png-ssr.png") as picture:
        assert picture.size == (224, 224)

"""Names that differ from those of files only in their Unicode form match."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from cfx_jax.commands.infill_folder import infill_folder
from cfx_jax.config import ConfigError, DataConfig
from cfx_jax.data import match_forms, open_source
from cfx_jax.registry import load_generator

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Übung é") for form in ("NFC", "NFD"))


def save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 6), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """One image whose name is decomposed, as macOS writes it."""
    save(tmp_path / "photos" / DECOMPOSED / f"{DECOMPOSED}.png", 7)
    if COMPOSED in [path.name for path in (tmp_path / "photos").iterdir()]:
        pytest.skip("this file system composes names")
    return tmp_path


def test_a_table_names_files_of_another_form(folder, log):
    photos = folder / "photos"
    table = f"file,label\n{COMPOSED}/{COMPOSED}.png,3\n"
    (photos / "manifest.csv").write_text(table, encoding="utf-8")
    source = open_source(DataConfig("folder", str(photos)))
    assert list(source.ids) == [f"{DECOMPOSED}/{DECOMPOSED}.png"]
    assert source.label(0) == 3
    assert np.asarray(source.decode(0)).max() == 7
    assert "do not exist" not in log()
    assert "0 not listed" not in log()


def test_a_table_prefers_the_exact_name_and_names_a_collision(folder):
    photos = folder / "photos"
    for number, name in enumerate((COMPOSED, DECOMPOSED)):
        save(photos / f"{name}.png", number)
    half = unicodedata.normalize("NFC", "Ü") + unicodedata.normalize("NFD", "bung é")
    table = photos / "manifest.csv"
    table.write_text(f"file,label\n{COMPOSED}.png,1\n{DECOMPOSED}.png,2\n", encoding="utf-8")
    source = open_source(DataConfig("folder", str(photos)))
    assert [np.asarray(source.decode(i)).max() for i in range(2)] == [0, 1]
    table.write_text(f"file,label\n{half}.png,1\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"manifest\.csv: .*U\\u0308bung.* or .*\\xdcbung.* rename"
    ):
        open_source(DataConfig("folder", str(photos)))


def test_files_are_found_by_another_form(folder):
    name = f"{COMPOSED}/{COMPOSED}.png"
    source = open_source(DataConfig("folder", str(folder / "photos"), files=(name,)))
    assert np.asarray(source.decode(0)).max() == 7


def test_allowed_pixels_are_found_by_another_form(folder):
    save(folder / "masks" / COMPOSED / f"{COMPOSED}.png", 255)
    config = DataConfig("folder", str(folder / "photos"), allowed=str(folder / "masks"))
    assert open_source(config).allowed(0, (6, 6), "stretch").all()
    save(folder / "masks" / DECOMPOSED / f"{DECOMPOSED}.png", 255)
    with pytest.raises(ConfigError, match=r"has both .*\\u0308.* and .*\\xdc"):
        open_source(config)


def test_masks_are_found_by_another_form(folder):
    save(folder / "masks" / COMPOSED / f"{COMPOSED}.png", 255)
    folders = (folder / name for name in ("photos", "masks", "output"))
    assert infill_folder(load_generator("grey"), *folders) == []
    assert (folder / "output/infilled" / DECOMPOSED / f"{DECOMPOSED}.png").is_file()


def test_class_folders_of_one_name_are_refused(folder):
    save(folder / "photos" / COMPOSED / "a.png")
    config = DataConfig("folder", str(folder / "photos"), class_folders=True)
    with pytest.raises(ConfigError, match="differ only in their Unicode form: join them"):
        open_source(config)


def test_match_forms_finds_only_what_is_missing():
    there = ["a", DECOMPOSED]
    assert match_forms(["a", COMPOSED, "b", DECOMPOSED], there, "it") == {COMPOSED: DECOMPOSED}

"""The cache of compiled programs between commands."""

import os
import pathlib

import jax
import pytest

from cfx_jax.records import RecordReader
from cfx_jax.runs.programs import keep_programs


@pytest.fixture
def place(monkeypatch, tmp_path):
    """Gives a function that returns the cache folder; restores the settings of JAX afterwards."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def find():
        keep_programs()
        return jax.config.jax_compilation_cache_dir

    yield find
    jax.config.update("jax_compilation_cache_dir", before)


def test_programs_are_kept_in_the_user_cache_folder(place, tmp_path):
    folder = pathlib.Path(place())
    assert folder.is_dir()
    assert folder.parent == tmp_path / "cfx_jax"
    assert place() == str(folder)


def test_programs_are_kept_at_home_without_a_cache_folder(place, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert pathlib.Path(place()).parent == tmp_path / "home" / ".cache" / "cfx_jax"


def test_programs_follow_the_settings_of_jax(place, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert place() == str(tmp_path / "mine")
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert place() is None
    finally:
        jax.config.update("jax_enable_compilation_cache", True)


def test_programs_are_not_kept_without_write_access(place, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert place() is None


def test_programs_report_an_unusable_cache_folder(place, caplog, tmp_path):
    (tmp_path / "file").write_text("")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file"))
    with caplog.at_level("INFO"):
        assert place() is None
    assert "compiled programs are not kept" in caplog.text
    assert str(tmp_path / "file") in caplog.text
    # JAX itself reports errors of a bucket.
    jax.config.update("jax_compilation_cache_dir", "gs://bucket/programs")
    assert place() == "gs://bucket/programs"


@pytest.mark.slow
def test_programs_recompile_a_truncated_one(commands, tmp_path):
    arguments = [
        "--config.data.max_examples=1", "--config.report.save_images=False",
        "--config.explain.objective=ssr",
    ]  # fmt: skip
    kept = {"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    kept |= commands.unoptimised
    commands.run(tmp_path / "first", *arguments, environment=kept)
    entries = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert entries
    for path in entries:
        os.truncate(path, path.stat().st_size // 2)
    commands.run(tmp_path / "again", *arguments, environment=kept)
    first, again = (RecordReader(tmp_path / name) for name in ("first", "again"))
    for field in first.fields:
        assert first.read(field.name).tobytes() == again.read(field.name).tobytes()

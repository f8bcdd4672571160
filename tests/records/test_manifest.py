"""The manifest keeps one run per folder, and errors name the differences."""

import json

import numpy as np
import pytest

from cfx_jax.records import manifest
from cfx_jax.records.manifest import ManifestMismatchError
from cfx_jax.records.storage import Storage

MANIFEST = {
    "config": {"explain": {"num_steps": 100, "sizes": (1, 2)}, "name": "vgg"},
    "environment": {"jax": "1"},
}
LAYOUT = {"num_examples": 10}


def claim_folder(root, *arguments):
    manifest.claim_folder(Storage(root), *arguments)


def read_manifest(root):
    return manifest.read_manifest(Storage(root))


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_claim_folder_round_trip_in_a_new_folder(tmp_path):
    root = tmp_path / "deep" / "run"
    claim_folder(root, MANIFEST, LAYOUT)
    assert read_manifest(root) == (json.loads(json.dumps(MANIFEST)), LAYOUT)
    assert [path.name for path in root.iterdir()] == ["manifest.json"]


def test_claim_folder_same_run_elsewhere_changes_nothing(tmp_path):
    claim_folder(tmp_path, MANIFEST, LAYOUT)
    before = snapshot(tmp_path)
    claim_folder(tmp_path, MANIFEST | {"environment": {"jax": "2", "devices": 8}}, LAYOUT)
    assert snapshot(tmp_path) == before


def test_claim_folder_refuses_another_run_with_a_diff(tmp_path):
    claim_folder(tmp_path, MANIFEST, LAYOUT)
    before = snapshot(tmp_path)
    other = {
        "config": {"explain": {"num_steps": 300, "sizes": [1]}, "seed": 1, "name": "vgg"},
        "note": "x" * 200,
    }
    with pytest.raises(ManifestMismatchError) as caught:
        claim_folder(tmp_path, other, {"num_examples": 11})
    assert str(caught.value).splitlines() == [
        f"{tmp_path} holds a run with other settings; nothing in it was changed.",
        "  config.explain.num_steps: stored 100, now 300",
        "  config.explain.sizes.1: removed (stored 2)",
        "  config.seed: added (now 1)",
        "  records.num_examples: stored 10, now 11",
        f'  note: added (now "{"x" * 75} ...)',
        "Choose another --workdir, or delete this one to start over.",
    ]
    assert snapshot(tmp_path) == before


def test_claim_folder_does_not_compare_informative_fields(tmp_path):
    claim_folder(tmp_path, MANIFEST, LAYOUT)
    other = {"config": {"explain": {"mode": "fast", "sizes": (1, 2)}, "name": "resnet"}}
    informative = ["config.explain.num_steps", "config.explain.mode", "config.nothing"]
    with pytest.raises(ManifestMismatchError) as caught:
        claim_folder(tmp_path, other, LAYOUT, informative)
    # Listed if other values differ, because they may explain the difference.
    assert str(caught.value).splitlines()[1:-1] == [
        "  config.explain.num_steps: removed (stored 100)",
        '  config.explain.mode: added (now "fast")',
        '  config.name: stored "vgg", now "resnet"',
    ]
    claim_folder(tmp_path, other, LAYOUT, [*informative, "config.name"])
    assert read_manifest(tmp_path)[0]["config"]["name"] == "vgg"


def test_claim_folder_truncates_a_long_diff(tmp_path):
    claim_folder(tmp_path, {"class_names": [f"a{i}" for i in range(1000)]}, LAYOUT)
    with pytest.raises(ManifestMismatchError, match=r"\.\.\. and 980 more\n") as caught:
        claim_folder(tmp_path, {"class_names": [f"b{i}" for i in range(1000)]}, LAYOUT)
    assert str(caught.value).count("class_names.") == 20


def test_claim_folder_refuses_the_later_of_two_runs(tmp_path, monkeypatch):
    create = Storage.create

    def overtaken(self, name, data):
        assert create(self, name, data.replace(b"vgg", b"resnet"))
        return create(self, name, data)

    monkeypatch.setattr(Storage, "create", overtaken)
    with pytest.raises(ManifestMismatchError, match='name: stored "resnet", now "vgg"'):
        claim_folder(tmp_path, MANIFEST, LAYOUT)


@pytest.mark.parametrize("content", ["", '{"config": {"na', "[1, 2]", '{"config": {}}', "\ufeff{"])
def test_read_manifest_names_a_damaged_manifest(tmp_path, content):
    claim_folder(tmp_path, MANIFEST, LAYOUT)
    (tmp_path / "manifest.json").write_text(content)
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=r"manifest\.json is not "):
        claim_folder(tmp_path, MANIFEST, LAYOUT)
    with pytest.raises(ValueError, match=r"manifest\.json is not "):
        read_manifest(tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300])
def test_claim_folder_refuses_an_unusable_folder(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=f"cannot write into workdir {tmp_path / place}"):
        claim_folder(tmp_path / place, MANIFEST, LAYOUT)
    assert (tmp_path / "file").read_text() == "mine"


def test_claim_folder_names_a_folder_without_permission(tmp_path, monkeypatch):
    # Replaced, because file modes do not restrict root, which runs many test machines.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=f"workdir {tmp_path} .Permission denied"):
        claim_folder(tmp_path, MANIFEST, LAYOUT)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"loss": float("nan")}, "finite JSON values"),
        ({"array": np.zeros(2)}, "finite JSON values"),
        ({"records": {}}, 'key "records" is reserved'),
    ],
)
def test_claim_folder_refuses_an_unusable_manifest(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        claim_folder(tmp_path / "run", content, LAYOUT)
    assert not (tmp_path / "run").exists()

"""Addresses on the hub -> files; the functions of huggingface_hub are replaced."""

import json
import sys

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from cfx_jax.weights._hub import download, is_address

SUFFIXES = (".safetensors", ".safetensors.index.json", ".pth")
INDEX = {"weight_map": {"a": "net-1.safetensors", "b": "net-2.safetensors"}}
REPOSITORIES = {
    "owner/usual": ["README.md", "model.safetensors", "old.pth"],
    "owner/single": ["config.json", "weights/net.pth"],
    "owner/named": ["config.json", "net.pth"],
    "owner/several": ["a.pth", "b.pth", "notes.txt"],
    "owner/none": ["README.md"],
    "owner/sharded": [
        "sub/net.safetensors.index.json",
        "sub/net-1.safetensors",
        "sub/net-2.safetensors",
    ],
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """What the stand-ins have fetched, a folder of files."""

    def hf_hub_download(repo_id, filename):
        if filename not in REPOSITORIES[repo_id]:
            raise EntryNotFoundError(f"404 Client Error.\n\nEntry Not Found for url: {filename}")
        path = tmp_path / repo_id / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(INDEX) if filename.endswith("json") else filename)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", REPOSITORIES.__getitem__)
    return tmp_path


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("hf://owner/usual", "owner/usual/model.safetensors"),
        ("hf://owner/usual/", "owner/usual/model.safetensors"),
        ("hf://owner/usual/old.pth", "owner/usual/old.pth"),
        ("hf://owner/single", "owner/single/weights/net.pth"),
        ("hf://owner/single/weights/net.pth", "owner/single/weights/net.pth"),
    ],
)
def test_download_fetches_a_file(cache, address, file):
    assert is_address(address)
    path = download(address, SUFFIXES)
    assert path == cache / file
    assert file.endswith(path.read_text())


def test_download_fetches_the_metadata_of_weights(cache):
    assert (download("hf://owner/single", SUFFIXES).parent / "config.json").exists() is False
    path = download("hf://owner/named", SUFFIXES)
    assert sorted(file.name for file in path.parent.iterdir()) == ["config.json", "net.pth"]


def test_download_fetches_the_files_of_an_index(cache):
    path = download("hf://owner/sharded", SUFFIXES)
    assert {file.name for file in path.parent.iterdir()} == {
        "net.safetensors.index.json",
        "net-1.safetensors",
        "net-2.safetensors",
    }


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("hf://owner/several", ValueError, r"pass one of its weights files: a\.pth, b\.pth"),
        ("hf://owner/none", ValueError, r"no weights file .* among \['README\.md'\]"),
        ("hf://owner", ValueError, "expected hf://owner/name"),
        ("hf://owner/usual/new.pth", OSError, r"cannot be fetched: 404 .*Entry Not Found .*new"),
    ],
)
def test_download_names_an_invalid_address(cache, address, error, message):
    with pytest.raises(error, match=f"^{address}: {message}"):
        download(address, SUFFIXES)


def test_download_offline_requests_no_file_list(cache, monkeypatch):
    def unreachable(*arguments):
        raise LocalEntryNotFoundError("no connection, and not in the cache")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(OSError, match="hf://owner/single: cannot be fetched: no connection"):
        download("hf://owner/single", SUFFIXES)


def test_download_names_the_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="pip install huggingface_hub"):
        download("hf://owner/name", SUFFIXES)

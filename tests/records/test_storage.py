"""Files are written whole or not at all, and errors are those of the operating system."""

import errno
import threading

import pytest

from cfx_jax.records.storage import Storage, os_error


def test_storage_round_trip_makes_folders_and_replaces(tmp_path):
    storage = Storage(tmp_path / "new" / "run")
    assert storage.read("a/b.txt") is None
    storage.write("a/b.txt", b"old")
    storage.write("a/b.txt", b"")
    assert storage.read("a/b.txt") == b""
    assert (tmp_path / "new/run/a/b.txt").read_bytes() == b""
    assert storage.place("c.txt") == f"{tmp_path}/new/run/c.txt"


def test_storage_lists_and_removes_the_files_of_a_folder(tmp_path):
    storage = Storage(tmp_path)
    assert storage.names("a/") == []
    for name in ("a/1", "a/b/2", "a.txt", "ab/3"):
        storage.write(name, b"")
    assert sorted(storage.names("a/")) == ["a/1", "a/b/2"]
    storage.remove("a/1")
    storage.remove("a/1")
    assert storage.names("a/") == ["a/b/2"]


def test_storage_accepts_a_path_with_parent_parts(tmp_path):
    (tmp_path / "other").mkdir()
    storage = Storage(f"{tmp_path}/other/../run")
    storage.write("a.txt", b"content")
    assert (tmp_path / "run/a.txt").read_bytes() == b"content"


def test_storage_create_succeeds_for_one_of_several(tmp_path):
    """Each caller is a thread, and all start at once."""
    barrier, won = threading.Barrier(8), []

    def create(content):
        storage = Storage(tmp_path)
        barrier.wait()
        if storage.create("file", content):
            won.append(content)

    threads = [threading.Thread(target=create, args=(bytes([i]),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [Storage(tmp_path).read("file")] == won
    assert Storage(tmp_path).create("file", b"late") is False


def test_storage_errors_are_those_of_the_system(tmp_path):
    (tmp_path / "file").write_text("mine")
    storage = Storage(tmp_path / "file")
    with pytest.raises(NotADirectoryError, match=r"cannot write .*file/a.txt .Not a directory"):
        storage.write("a.txt", b"")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "code"),
    [("X: no space [os_error_code='28']", errno.ENOSPC), ("UNAVAILABLE: try again\nmore", None)],
)
def test_os_error_without_a_code_keeps_its_first_line(text, code):
    error = os_error(ValueError(text), "cannot write a")
    assert error.errno == code
    assert str(error) == (
        "[Errno 28] cannot write a (No space left on device)"
        if code
        else "cannot write a: UNAVAILABLE: try again"
    )


@pytest.mark.parametrize("address", ["s3://bucket/run", "gs://", "gs:///run", "http://x/y"])
def test_storage_refuses_addresses_of_other_kinds(address):
    with pytest.raises(ValueError, match="expected"):
        Storage(address)


@pytest.mark.parametrize("address", ["gs://bucket", "gs://bucket/", "gs://bucket/a/b/"])
def test_storage_names_a_bucket_by_its_address(address):
    storage = Storage(address)
    assert storage.root is None
    assert str(storage) == address
    assert storage.place("a.txt") == f"{address.rstrip('/')}/a.txt"
    kvstore = storage.kvstore("records.zarr/x")
    prefix = address.removeprefix("gs://bucket").strip("/")
    assert kvstore["path"] == f"{prefix}/records.zarr/x/".lstrip("/")

"""Files are written whole or not at all, and errors are those of the operating system."""

import errno
import threading

import pytest

from cfx_jax.records.storage import RecordsError, Storage, local_folder, os_error


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


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("az://container/run", "file:///path, gs://bucket/path or s3://bucket/path"),
        ("http://x/y", "file:///path, gs://bucket/path or s3://bucket/path"),
        ("gs://", "gs://bucket/path"),
        ("gs:///run", "gs://bucket/path"),
        ("s3:///run", "s3://bucket/path"),
        ("file://host/run", "an absolute path, file:///path"),
        ("file://", "an absolute path, file:///path"),
    ],
)
def test_storage_refuses_addresses_of_other_kinds(address, expected):
    with pytest.raises(RecordsError, match=f"^{address}: expected .*{expected}$"):
        Storage(address)


def test_storage_refuses_a_bucket_of_an_invalid_name():
    for address in ("gs://A B/run", "s3://A B/run"):
        with pytest.raises(RecordsError, match=f"^{address}: .*[Bb]ucket"):
            Storage(address)


@pytest.mark.parametrize("start", ["file://", "file://localhost"])
def test_storage_reads_the_address_of_a_file(tmp_path, start):
    storage = Storage(f"{start}{tmp_path}/with%20a%20space")
    storage.write("a.txt", b"content")
    assert (tmp_path / "with a space/a.txt").read_bytes() == b"content"
    assert storage.root == tmp_path / "with a space"
    assert str(storage) == str(tmp_path / "with a space")


def test_storage_of_s3_follows_the_variables_of_aws(monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    plain = Storage("s3://bucket/a/").kvstore("b")
    assert (plain["driver"], plain["bucket"], plain["path"]) == ("s3", "bucket", "a/b/")
    assert not plain.keys() & {"endpoint", "aws_region"}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:9000")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    given = Storage("s3://bucket").kvstore("b")
    assert (given["endpoint"], given["aws_region"]) == ("http://localhost:9000", "eu-west-1")


def test_local_folder_refuses_a_bucket(tmp_path):
    assert local_folder(f"file://{tmp_path}") == tmp_path
    assert str(local_folder("runs/a")) == "runs/a"
    # As a path, it would be the folder `gs:` in the working directory.
    with pytest.raises(RecordsError, match=r"gs://bucket/x: .* not written into a bucket"):
        local_folder("gs://bucket/x")


@pytest.mark.parametrize("address", ["gs://bucket", "gs://bucket/", "gs://bucket/a/b/"])
def test_storage_names_a_bucket_by_its_address(address):
    storage = Storage(address)
    assert storage.root is None
    assert str(storage) == address
    assert storage.place("a.txt") == f"{address.rstrip('/')}/a.txt"
    kvstore = storage.kvstore("records.zarr/x")
    prefix = address.removeprefix("gs://bucket").strip("/")
    assert kvstore["path"] == f"{prefix}/records.zarr/x/".lstrip("/")

"""The folder of a run: files by name, on a local disk or in a bucket (`gs://`, `s3://`)."""

import os
import pathlib
import re
import urllib.parse
from typing import Any

import tensorstore as ts

_KINDS = "a folder on a local disk, file:///path, gs://bucket/path or s3://bucket/path"
_DRIVERS = {"gs": "gcs", "s3": "s3"}
_S3_RETRIES = 4


class RecordsError(ValueError):
    """Error for a folder that cannot be used as the records of a run: foreign or damaged."""


class Storage:
    """Folder whose files are read and written atomically: a file has its old or its new content.

    Attributes:
        location: the folder, as it was given; the path of a `file://` address.
        root: path of the folder on a local disk; None in a bucket.

    Example:
        >>> import tempfile
        >>> storage = Storage(tempfile.mkdtemp())
        >>> storage.create("a.txt", b"first"), storage.create("a.txt", b"second")
        (True, False)
        >>> storage.read("a.txt"), storage.read("b.txt")
        (b'first', None)
    """

    def __init__(self, location: str | os.PathLike[str]) -> None:
        """Opens a folder; nothing is read or created yet.

        Raises:
            RecordsError: the address is of an unknown kind.
        """
        self.location = _without_scheme(os.fspath(location))
        self.root: pathlib.Path | None = None
        if "://" in self.location:
            self._spec = _bucket_spec(self.location)
        else:
            # Without `..`, which TensorStore refuses.
            self.root = pathlib.Path(os.path.abspath(self.location))
            self._spec = {"driver": "file", "path": f"{self.root}/"}
        try:
            self._files = ts.KvStore.open(self._spec).result()
        except ValueError as error:  # The name of the bucket is invalid.
            raise RecordsError(f"{self.location}: {str(error).splitlines()[0]}") from error

    def __str__(self) -> str:
        return self.location

    def place(self, name: str) -> str:
        """Returns the location of a file, for messages."""
        return f"{self.location.rstrip('/')}/{name}"

    def kvstore(self, name: str) -> dict[str, Any]:
        """Returns the TensorStore specification of a sub-folder."""
        return self._spec | {"path": f"{self._spec['path']}{name}/"}

    def read(self, name: str) -> bytes | None:
        """Returns the content of a file; None if it does not exist.

        Raises:
            OSError: the file cannot be read.
        """
        found = self._result(self._files.read(name), "read", name)
        return bytes(found.value) if found.state == "value" else None

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, and creates its folders; returns when the file is durably stored.

        Raises:
            OSError: the file cannot be written.
        """
        self._result(self._files.write(name, data), "write", name)

    def create(self, name: str, data: bytes) -> bool:
        """Writes a file only if it does not exist; of several concurrent calls, one succeeds.

        Returns:
            Whether this call has written the file.

        Raises:
            OSError: the file cannot be read or written.
        """
        found = self._result(self._files.read(name), "read", name)
        if found.state == "value":
            return False
        stamp = self._files.write(name, data, if_equal=found.stamp.generation)
        return bool(self._result(stamp, "write", name).generation)

    def names(self, folder: str) -> list[str]:
        """Lists the files in a folder, such as `data/`, and in its sub-folders.

        Raises:
            OSError: the folder cannot be listed.
        """
        # "0" follows "/", so the range has all names that begin with the folder.
        found = ts.KvStore.KeyRange(folder, folder[:-1] + "0")
        listed = self._result(self._files.list(found), "list", folder)
        return [name.decode() for name in listed]

    def remove(self, name: str) -> None:
        """Removes a file if it exists.

        Raises:
            OSError: the file cannot be removed.
        """
        self._result(self._files.write(name, None), "remove", name)

    def _result(self, future: Any, verb: str, name: str) -> Any:
        try:
            return future.result()
        except ValueError as error:
            raise os_error(error, f"cannot {verb} {self.place(name)}") from error


def local_folder(location: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of a folder that must be on a local disk, also for a `file://` address.

    Raises:
        RecordsError: the folder is in a bucket, or the address is of an unknown kind.
    """
    path = _without_scheme(os.fspath(location))
    if "://" in path:
        raise RecordsError(
            f"{path}: these results are not written into a bucket; expected a folder"
        )
    return pathlib.Path(path)


def _without_scheme(location: str) -> str:
    if not location.startswith("file://"):
        return location
    address = urllib.parse.urlsplit(location)
    if address.netloc not in ("", "localhost") or not address.path:
        raise RecordsError(f"{location}: expected an absolute path, file:///path")
    return urllib.parse.unquote(location.removeprefix(f"file://{address.netloc}"))


def _bucket_spec(location: str) -> dict[str, Any]:
    """Returns the TensorStore specification of a folder in a bucket."""
    scheme, _, rest = location.partition("://")
    bucket, _, path = rest.partition("/")
    if scheme not in _DRIVERS:
        raise RecordsError(f"{location}: expected {_KINDS}")
    if not bucket:
        raise RecordsError(f"{location}: expected {scheme}://bucket/path")
    prefix = f"{path.strip('/')}/" if path.strip("/") else ""
    spec: dict[str, Any] = {"driver": _DRIVERS[scheme], "bucket": bucket, "path": prefix}
    if scheme == "s3":
        # TensorStore reads the credentials itself, but not these variables. By default it tries 32
        # times to reach a server, which takes minutes if the name of the server is wrong.
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        options = {"endpoint": os.environ.get("AWS_ENDPOINT_URL"), "aws_region": region}
        spec |= {name: value for name, value in options.items() if value}
        spec |= {"s3_request_retries": {"max_retries": _S3_RETRIES}}
    return spec


def os_error(error: ValueError, what: str) -> OSError:
    """Returns the operating system's error behind an error of TensorStore.

    Args:
        error: error that TensorStore raised.
        what: the failed action, such as `cannot write a.txt`.
    """
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code is None:
        return OSError(f"{what}: {str(error).splitlines()[0]}")
    number = int(code[1])
    return OSError(number, f"{what} ({os.strerror(number)})")

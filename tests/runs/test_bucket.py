"""A run in a bucket has the same records as on a disk; the test serves the API of the bucket."""

import http.server
import itertools
import json
import threading
import urllib.parse

import numpy as np
import pytest

from cfx_jax.records import Field, RecordReader, RecordsError, RecordWriter

RUN = "gs://bucket/some/run"


class Bucket(http.server.ThreadingHTTPServer):
    """Keeps objects in memory; implements the part of the Cloud Storage JSON API that runs use."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("localhost", 0), Request)
        self.objects = {}  # name -> (generation, content)
        self.generations = itertools.count(1)
        self.lock = threading.Lock()


class Request(http.server.BaseHTTPRequestHandler):
    """`/storage/v1/b/BUCKET/o[/NAME]` and `/upload/storage/v1/b/BUCKET/o?name=NAME`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, code, content=b"", **headers):
        self.send_response(code)
        for name, value in ({"Content-Length": len(content)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(content)

    def parse(self):
        url = urllib.parse.urlparse(self.path)
        options = dict(urllib.parse.parse_qsl(url.query, errors="surrogateescape"))
        _, _, name = url.path.partition("/b/bucket/o")
        return urllib.parse.unquote(name.lstrip("/")), options

    def fails(self, name, options):
        """Returns whether the condition of a request on the object's generation fails."""
        generation = self.server.objects.get(name, (0,))[0]
        return (
            int(options.get("ifGenerationMatch", generation)) != generation
            or int(options.get("ifGenerationNotMatch", -1)) == generation
        )

    def do_GET(self):
        name, options = self.parse()
        with self.server.lock:
            if not name:
                begin, end = options.get("startOffset", ""), options.get("endOffset", "\U0010ffff")
                names = [n for n in sorted(self.server.objects) if begin <= n < end]
                content = {"kind": "storage#objects", "items": [self.about(n) for n in names]}
                self.answer(200, json.dumps(content).encode(), Content_Type="application/json")
            elif name not in self.server.objects:
                self.answer(404)
            elif self.fails(name, options):
                self.answer(304)
            else:
                generation, content = self.server.objects[name]
                self.answer(200, content, X_Goog_Generation=generation)

    def do_POST(self):
        _, options = self.parse()
        name = options["name"]
        content = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            if self.fails(name, options):
                self.answer(412)
                return
            self.server.objects[name] = next(self.server.generations), content
            self.answer(200, json.dumps(self.about(name)).encode(), Content_Type="application/json")

    def do_DELETE(self):
        name, options = self.parse()
        with self.server.lock:
            if name not in self.server.objects:
                self.answer(404)
            elif self.fails(name, options):
                self.answer(412)
            else:
                del self.server.objects[name]
                self.answer(204)

    def about(self, name):
        generation, content = self.server.objects[name]
        return {
            "kind": "storage#object", "name": name, "bucket": "bucket",
            "generation": str(generation), "size": str(len(content)),
            "updated": "2024-01-01T00:00:00.000Z", "timeCreated": "2024-01-01T00:00:00.000Z",
        }  # fmt: skip


@pytest.fixture(scope="module")  # TensorStore reads its address once per process.
def bucket():
    with Bucket() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def environment(bucket):
    return {
        "TENSORSTORE_GCS_HTTP_URL": f"http://localhost:{bucket.server_port}",
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
    }


def store(bucket):
    prefix = "some/run/records.zarr/"
    return {
        name.removeprefix(prefix): content
        for name, (_, content) in bucket.objects.items()
        if name.startswith(prefix)
    }


def write_missing(workdir, seed=0):
    """Writes the missing units of a folder; returns them."""
    with RecordWriter(workdir, {"seed": seed}, [Field("a", "float32", (3,))], 5, 2) as writer:
        missing = writer.missing_units()
        for unit in missing:
            index = np.arange(*writer.unit_range(unit), dtype=np.float32)
            writer.write_unit(unit, {"a": np.tile(index[:, None], (1, 3))})
    return missing


def test_record_writer_units_in_a_bucket_equal_those_on_disk(
    bucket, environment, files, monkeypatch, tmp_path
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert write_missing(tmp_path / "run") == write_missing(RUN) == [0, 1, 2]
    expected = files(tmp_path / "run")
    assert store(bucket) == expected
    generation, content = bucket.objects["some/run/records.zarr/a/c/0/0"]
    bucket.objects["some/run/records.zarr/a/c/0/0"] = generation, content[:-1]
    del bucket.objects["some/run/records.zarr/complete/c/2"]
    assert write_missing(RUN) == [0, 2]
    assert store(bucket) == expected
    assert RecordReader(RUN).read("a")[:, 1].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(RecordsError, match="seed: stored 0, now 1"):
        write_missing(RUN, seed=1)


@pytest.mark.slow
def test_run_in_a_bucket_equals_one_on_disk_and_resumes(
    commands, undisturbed, files, bucket, environment
):
    bucket.objects.clear()
    output = commands.run(RUN, "--config.report.max_images=64", pod=(2, 2), environment=environment)
    assert f"report:  {RUN}/report/index.html" in output
    expected = files(undisturbed)
    assert store(bucket) == expected
    assert b"/63.webp" in bucket.objects["some/run/report/index.html"][1]
    pictures = [name for name in bucket.objects if name.startswith("some/run/report/images/")]
    assert len(pictures) == 64

    # A lost and a damaged chunk; one unit is absent.
    del bucket.objects["some/run/records.zarr/ssr_trace/c/3/0"]
    generation, content = bucket.objects["some/run/records.zarr/sdr_status/c/6"]
    bucket.objects["some/run/records.zarr/sdr_status/c/6"] = generation, content[:-1]
    del bucket.objects["some/run/records.zarr/complete/c/8"]
    commands.run(RUN, pod=(2, 2), environment=environment)
    assert store(bucket) == expected
    for name, damaged in (("log", 6), ("log-1", 3)):  # Units alternate between hosts.
        log = bucket.objects[f"some/run/{name}"][1].decode()
        assert f"unit {damaged} is damaged, and computed again" in log

    output = commands.run(RUN, "--config.seed=1", pod=(1, 1), code=2, environment=environment)
    assert "seed: stored 0, now 1" in output
    assert store(bucket) == expected

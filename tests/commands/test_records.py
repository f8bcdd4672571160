"""The command `cfx_jax.records`: its output and its exit status."""

import subprocess
import sys

import pytest

from cfx_jax.commands.records import main
from cfx_jax.records import Field, RecordWriter


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command in this process; returns its exit status, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["records", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, *capsys.readouterr()

    return run


def test_records_command_runs_as_a_module(make_run):
    command = [sys.executable, "-m", "cfx_jax.records", "status", make_run()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("5 of 5 examples done")


def test_records_verify_sets_the_exit_status(make_run, call):
    run = make_run()
    assert call("verify", run) == (
        0, "sound: every chunk of every complete unit can be read\n", ""
    )  # fmt: skip
    (run / "records.zarr/ssr_status/c/1").write_bytes(b"")
    code, output, _ = call("verify", run)
    assert code == 1
    assert output.splitlines()[-1].startswith("1 problems; run the same command again")


def test_records_export_writes_table_and_pictures_once(make_run, tmp_path, call):
    out = tmp_path / "out"
    command = ["export", make_run(), "--format=csv", f"--to={out}", "--pictures"]
    code, output, _ = call(*command)
    assert code == 0
    assert output.splitlines() == [f"{out}/explanations.csv", f"8 pictures in {out}/pictures"]
    code, _, errors = call(*command)
    assert code == 2
    assert errors.startswith("error: ")


@pytest.mark.parametrize("command", [["status"], ["verify"], ["export", "--to=out"]])
def test_records_command_refuses_other_folders_in_one_line(command, tmp_path, call):
    code, _, errors = call(*command, tmp_path / "nothing")
    assert code == 2
    assert errors.startswith(f"error: {tmp_path}/nothing holds no manifest.json")
    scores = tmp_path / "scores"
    fields = [Field("id", "uint8", (4,)), Field("insertion", "float32")]
    RecordWriter(scores, {"part": {"kind": "images"}}, fields, 1, 1).close()
    code, _, errors = call(*command, scores)
    assert code == 2
    assert errors.startswith(f"error: {scores} contains records of id, insertion, ..., not of ")
    assert errors.count("\n") == 1

"""The command that writes galleries."""

import os
import subprocess
import sys

import pytest

from cfx_jax.commands import report


def call(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "cfx_jax.report", *map(os.fspath, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_report_command_writes_beside_the_records_or_to_output(make_run, tmp_path):
    run = make_run()
    alone = call(run)
    assert (alone.returncode, alone.stdout) == (0, f"{run}/report/index.html\n"), alone.stderr
    assert (run / "report/index.html").is_file()
    done = call(run, "no/such/run", f"--output={tmp_path}/both")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no/such/run holds no manifest.json")
    assert not (tmp_path / "both").exists()


def test_report_command_needs_neither_a_drawing_backend_nor_streams(make_run):
    run = make_run()
    command = [sys.executable, "-m", "cfx_jax.report", str(run)]
    # A notebook leaves its backend, of another environment, to the commands of its cells.
    environment = os.environ | {"MPLBACKEND": "module://not_installed.backend_inline"}
    done = subprocess.run(
        ["bash", "-c", 'exec "$@" <&- 2>&-', "bash", *command],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{run}/report/index.html\n")
    assert list((run / "report").rglob("*.webp"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUN"),
        (["a", "b"], "several runs need --output=DIR"),
        (["a", "--output="], "--output is empty; expected a folder"),
        (["a", "--max_images=-1"], "--max_images is -1; expected 0 or more"),
    ],
)
def test_report_command_reports_user_errors(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["report", *arguments])
    with pytest.raises(SystemExit) as ended:
        report.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err

"""Errors of launch/local_slurm.py; tests/runs/test_slurm.py tests a running cluster."""

import pathlib
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"


def run(*arguments, before="pass"):
    code = (
        f"import sys; sys.path.insert(0, {str(LAUNCH)!r}); import local_slurm; {before}; "
        "sys.exit(local_slurm.main())"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def test_local_slurm_names_missing_programs(tmp_path):
    ended = run(f"--folder={tmp_path}", before="local_slurm._DAEMONS = ('no_slurmd', 'no_ctld')")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: no_slurmd and no_ctld not found; install Slurm")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: --folder"),
        (["--folder=a", "--gpus=5"], "choose from 1, 2, 3, 4"),
        (["--folder=a", "--grace=soon"], "invalid int value: 'soon'"),
    ],
)
def test_local_slurm_refuses_wrong_options(arguments, message):
    ended = run(*arguments)
    assert ended.returncode == 2
    assert message in ended.stderr

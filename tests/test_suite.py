"""All processes of the test run collect the same tests."""

import os
import pathlib
import subprocess
import sys

import pytest

TESTS = pathlib.Path(__file__).parent


def collect(seed: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "--collect-only", "-m", ""]
    environment = os.environ | {"PYTHONHASHSEED": seed}
    return subprocess.run(
        command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()


@pytest.mark.slow
def test_suite_collects_the_same_names_in_every_process():
    first, second = ([line for line in collect(seed) if "::" in line] for seed in "12")
    assert len(first) > 1000
    assert first == second

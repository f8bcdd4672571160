"""The README is short and has two setup commands; tests/test_docs.py runs its example."""

import pathlib
import re

TEXT = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


def test_readme_has_exactly_two_setup_commands():
    section = re.search(r"^## Set up\n(.*?)^## ", TEXT, re.DOTALL | re.MULTILINE)[1]
    commands = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert [len(command.splitlines()) for command in commands] == [1, 1]


def test_readme_is_short():
    assert len(TEXT.splitlines()) <= 120

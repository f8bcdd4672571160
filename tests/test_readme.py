"""The README is a page, and its example runs; all pages: tests/test_docs.py."""

import dataclasses
import pathlib
import re

from cfx_jax.fido.settings import MODES

TEXT = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


def blocks(language, text=TEXT):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_example_runs(monkeypatch):
    """With two steps instead of 60 and no settling, which changes no shape."""
    short = dataclasses.replace(MODES["region"], num_steps=2, num_samples=1, success_target=0.0)
    monkeypatch.setitem(MODES, "region", short)
    names = {}
    (code,) = blocks("python")
    exec(code, names)
    explanation = names["e"]
    assert explanation.keep_prob.shape == (1, 14, 14)
    assert explanation.saliency.shape == (1, 224, 224)
    assert explanation.target.tolist() == [285]


def test_there_are_exactly_two_set_up_commands():
    section = re.search(r"^## Set up\n(.*?)^## ", TEXT, re.DOTALL | re.MULTILINE)[1]
    assert [len(command.splitlines()) for command in blocks("sh", section)] == [1, 1]


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 120

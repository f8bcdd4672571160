"""Progress bars: redrawn on a terminal, elsewhere occasional lines."""

import io

import pytest

from cfx_jax.runs import progress
from cfx_jax.runs.progress import Bar, ProgressBar


def test_progress_bar_without_a_terminal_prints_occasional_lines(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with ProgressBar(100, steps_per_image=1, shown=True) as bar:
        for _ in range(100):
            now[0] += 1.0
            bar.update("ssr", 1, 2.0)
            bar.finish_images(1)
    written = capsys.readouterr().err
    assert "\r" not in written
    lines = written.splitlines()
    assert [line.rpartition("| ")[2].partition(" [")[0] for line in lines] == [
        "0/100 images, compiling",
        "29/100 images, SSR objective 2.00",
        "59/100 images, SSR objective 2.00",
        "89/100 images, SSR objective 2.00",
        "100/100 images, written",
    ]


def test_progress_bar_on_a_terminal_redraws(capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    with Bar(total=3, mininterval=0) as bar:
        for _ in range(3):
            bar.update()
    written = capsys.readouterr().err
    assert written.count("\r") >= 3
    assert written.count("\n") == 1


@pytest.mark.parametrize(("num_images", "shown"), [(0, True), (2, False)])
def test_progress_bar_is_silent_without_work(num_images, shown, capsys):
    with ProgressBar(num_images, steps_per_image=1, shown=shown):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stream", ["none", "closed", "without isatty"])
def test_progress_bar_needs_no_standard_error(stream, monkeypatch, capsys):
    closed = io.StringIO()
    closed.close()
    streams = {"none": None, "closed": closed, "without isatty": object()}
    monkeypatch.setattr(progress.sys, "stderr", streams[stream])
    with ProgressBar(2, steps_per_image=1, shown=True) as bar:
        bar.update("ssr", 1, 2.0)
        bar.finish_images(2)
    assert capsys.readouterr().out == ""

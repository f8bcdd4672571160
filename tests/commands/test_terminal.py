"""Log messages on the terminal."""

import logging

import jax

from cfx_jax.commands import _terminal

logger = logging.getLogger("cfx_jax.somewhere")


def test_terminal_shows_each_log_message_once(capsys):
    with _terminal.shown():
        logger.debug("detail")
        logger.info("going on")
        logger.warning("%d units are damaged", 2)
    logger.info("without a handler")
    printed = capsys.readouterr()
    assert printed.err == "going on\nwarning: 2 units are damaged\n"
    assert printed.out == ""


def test_terminal_only_process_0_shows_more_than_warnings(capsys, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with _terminal.shown():
        logger.info("going on")
        logger.warning("careful")
    assert capsys.readouterr().err == "warning: careful\n"


def test_terminal_leaves_logging_of_other_programs_alone(caplog, capsys):
    with _terminal.shown():
        pass
    logger.info("going on")
    logger.warning("careful")
    assert caplog.messages == ["careful"]
    assert capsys.readouterr().err == ""

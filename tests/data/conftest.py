"""The log of a test as one text."""

import logging

import pytest


@pytest.fixture
def log(caplog):
    """Returns a function that gives the log as one text."""
    caplog.set_level(logging.INFO, "cfx_jax")
    return lambda: "\n".join(record.getMessage() for record in caplog.records)

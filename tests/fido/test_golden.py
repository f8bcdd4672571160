"""Masks stay the same bit for bit, unless a change is meant to change them."""

import importlib.util
import pathlib

import numpy as np
import pytest

spec = importlib.util.spec_from_file_location(
    "make_explain_golden", pathlib.Path(__file__).parent / "make_explain_golden.py"
)
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)


@pytest.fixture(scope="module")
def found():
    return golden.keep_probabilities()


@pytest.mark.parametrize("objective", ["ssr", "sdr"])
@pytest.mark.parametrize("case", golden.CASES)
def test_explain_reproduces_the_golden_keep_probabilities(case, objective, found):
    with np.load(golden.PATH) as stored:
        expected = stored[f"{case}_{objective}"]
        # Another processor or compiler adds the same numbers in another order.
        is_same_machine = str(stored["machine"]) == golden.machine()
    if is_same_machine:
        np.testing.assert_array_equal(found[f"{case}_{objective}"], expected)
    else:
        np.testing.assert_allclose(found[f"{case}_{objective}"], expected, atol=1e-3)

"""Rules of the public API, checked by reflection, and the examples of all docstrings."""

import doctest
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import pytest

import cfx_jax

MODULES = [module.name for module in pkgutil.walk_packages(cfx_jax.__path__, "cfx_jax.")]
PUBLIC = [getattr(cfx_jax, name) for name in cfx_jax.__all__]
FUNCTIONS = [value for value in PUBLIC if inspect.isfunction(value)]
DRAWING = [value for value in FUNCTIONS if value.__name__.startswith("explain")]


def parameters(function):
    return inspect.signature(function).parameters.values()


def test_api_has_about_ten_public_names():
    assert len(PUBLIC) == len(FUNCTIONS) + 5 == 13
    assert len(DRAWING) == 3


@pytest.mark.parametrize("value", PUBLIC, ids=cfx_jax.__all__)
def test_api_docstrings_begin_with_one_sentence(value):
    first = inspect.getdoc(value).splitlines()[0]
    assert first.endswith(".")


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_api_parameters_are_described_and_typed(function):
    text = inspect.getdoc(function)
    returned = inspect.signature(function).return_annotation
    for section in ("Args:", *(["Returns:"] if returned is not None else []), "Raises:"):
        assert section in text
    for parameter in parameters(function):
        assert parameter.annotation is not inspect.Parameter.empty, parameter
        assert f"{parameter.name}:" in text, parameter
    assert returned is not inspect.Signature.empty


OPTIONS = "objective", "mode", "contrast", "score", "allowed", "batch_size", "progress"


@pytest.mark.parametrize("function", DRAWING, ids=lambda f: f.__name__)
def test_api_takes_the_key_first_and_options_by_name(function):
    first, *rest = parameters(function)
    assert first.name == "key"
    for parameter in rest:
        is_option = parameter.name in OPTIONS
        assert (parameter.kind is inspect.Parameter.KEYWORD_ONLY) == is_option, parameter


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    failures, _ = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert failures == 0


def test_docstring_examples_cover_the_main_functions():
    found = {test.name for test in doctest.DocTestFinder().find(cfx_jax.explain, "explain")
             if test.examples}  # fmt: skip
    assert found == {"explain"}


def test_explain_prints_nothing_and_changes_no_setting(capfd, random_classifier, images):
    before = dict(jax.config.values)
    generator = cfx_jax.load_generator("blur")
    cfx_jax.explain(
        jax.random.key(0), random_classifier, generator, jnp.asarray(images), mode="paper",
        mask_size=4, num_steps=2,
    )  # fmt: skip
    assert dict(jax.config.values) == before
    assert capfd.readouterr() == ("", "")

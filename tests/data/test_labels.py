"""Text labels are mapped to classes."""

import importlib.resources

import jax.numpy as jnp
import numpy as np
import pytest

from cfx_jax import Classifier
from cfx_jax.config import ConfigError
from cfx_jax.data import find_class
from cfx_jax.data.labels import Classes
from cfx_jax.weights.class_names import read_packaged

SYNSETS = read_packaged("imagenet_synsets.txt")
NAMES = read_packaged("imagenet_classes.txt")
IMAGENET = Classifier(params=(), apply=lambda _, x: x, class_names=NAMES)


def tfds_labels(path):
    """Returns the class names of a dataset in the order of TFDS."""
    text = importlib.resources.files("tensorflow_datasets").joinpath(path)
    return tuple(text.read_text(encoding="utf-8").split())


def test_classes_synsets_are_in_the_order_of_imagenet():
    assert tfds_labels("datasets/imagenet2012/labels.txt") == SYNSETS
    # Sorted by their numbers in WordNet.
    assert list(SYNSETS) == sorted(set(SYNSETS))
    names = read_packaged("imagenet_classes.txt")
    for synset, name in {"n01440764": "tench", "n02123045": "tabby", "n04285008": "sports"}.items():
        assert names[Classes().find(synset)].startswith(name)


def test_classes_find_those_of_imagenette_among_the_1000():
    """The indices are those that torchvision documents for its ImageNet weights."""
    found = [Classes(count=1000).find(s) for s in tfds_labels(
        "image_classification/imagenette_labels.txt"
    )]  # fmt: skip
    assert found == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]


def constant(params, images):
    return jnp.zeros((len(images), 7))


@pytest.mark.parametrize(
    ("classifier", "expected"),
    [
        (None, Classes()),
        (Classifier((), constant), Classes()),
        (Classifier((), constant, image_size=(4, 4)), Classes(count=7)),
        (Classifier((), constant, class_names=("a", "b")), Classes(("a", "b"), 2)),
    ],
)
def test_classes_of_a_classifier_need_no_forward_pass(classifier, expected):
    assert Classes.of(classifier) == expected
    assert Classes.of(classifier).are_known == (expected != Classes())


@pytest.mark.parametrize(
    ("names", "text", "expected"),
    [
        (("a", "b"), "b", 1),
        (("a", "b"), "1", 1),
        (("a", "b"), "c", None),
        (("a", "b"), "", None),
        (("a", ""), "", None),
        (("Käse",), "ka\u0308SE", 0),
        (("hot dog", "dog"), "hot__dog", 0),
        (("hot dog", "dog"), "dog", 1),
        # Its whole name before a part of another.
        (("dog, hound", "dog"), "dog", 1),
        (("1", "0", "2"), "2", 2),
        (("n01443537", "n01440764"), "n01440764", 1),
        ((), "\uff13", None),
        ((), "n1234567", None),
        ((), "n01440764tench", None),
    ],
)
def test_classes_find_a_text_as_one_class_or_none(names, text, expected):
    assert Classes(names, len(names) or None).find(text) == expected


@pytest.mark.parametrize(
    ("names", "text", "message"),
    [
        (("a", "b"), "2", "'2' is no class: the classifier has classes 0 to 1"),
        (("1", "0"), "1", r"'1' is the name of class 0 \(1\), and the number of another"),
        (("dog", "dog"), "dog", r"a name of classes 0 \(dog\) and 1 \(dog\): give the number"),
        (("dog, hound", "Dog"), "dog", "a name of classes 0 .* and 1 "),
    ],
)
def test_classes_refuse_an_ambiguous_text(names, text, message):
    with pytest.raises(ValueError, match=message):
        Classes(names, len(names)).find(text)


def test_classes_number_names_only_the_first_of_a_long_list(caplog):
    caplog.set_level("INFO", "cfx_jax")
    assert Classes().number([str(i) for i in np.arange(9)], "labels") == list(range(9))
    assert caplog.messages == [
        "labels: 9 classes: 0 = class 0, 1 = class 1, 2 = class 2, and 6 more"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tabby", 281),
        ("tabby, tabby cat", 281),
        ("n02123045", 281),
        ("281", 281),
    ],
)
def test_find_class_reads_names_synsets_and_numbers(text, expected):
    assert find_class(text, IMAGENET, 1000) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tabbi", r"explain.target: 'tabbi' is no class: .*did you mean 'tabby"),
        ("1000", "explain.target: '1000' is no class"),
        ("-1", "explain.target: '-1' is no class"),
    ],
)
def test_find_class_refuses_what_is_no_class(text, message):
    with pytest.raises(ConfigError, match=message):
        find_class(text, IMAGENET, 1000)


def test_find_class_checks_the_range_of_a_classifier_without_names():
    classifier = Classifier(params=(), apply=lambda _, x: x.mean((1, 2)))
    assert find_class("2", classifier, 3) == 2
    with pytest.raises(ConfigError, match=r"explain\.target is 3, but 'custom' has classes"):
        find_class("3", classifier, 3)

"""Maps the labels of a dataset, given as text, to classes: by number, ImageNet synset or name."""

import dataclasses
import difflib
import functools
import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from cfx_jax.classifiers import Classifier
from cfx_jax.config import ConfigError
from cfx_jax.fido import count_classes
from cfx_jax.weights import class_names

_logger = logging.getLogger(__name__)
_NUMBER = re.compile(r"[0-9]+")
# A synset alone, or followed by a name, as in `n02085620-Chihuahua`.
_SYNSET = re.compile(r"(n[0-9]{8})(?:[-_. ].*)?", re.IGNORECASE)
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_NUM_IMAGENET = 1000
_NUM_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes that labels refer to.

    Attributes:
        names: one name per class, or empty. A name may list synonyms separated by commas, as in
            `tabby, tabby cat`; each of them refers to the class.
        count: number of classes, None if unknown.
    """

    names: tuple[str, ...] = ()
    count: int | None = None

    @classmethod
    def of(cls, classifier: Classifier | None) -> "Classes":
        """Returns the classes of a classifier, without running it."""
        if classifier is None:
            return cls()
        if classifier.class_names or classifier.image_size is None:
            return cls(classifier.class_names, len(classifier.class_names) or None)
        shape = (1, *classifier.image_size, classifier.channels)
        return cls(count=count_classes(classifier, np.zeros(shape, np.float32)))

    @property
    def are_known(self) -> bool:
        """Whether a classifier defines the classes."""
        return bool(self.names) or self.count is not None

    def find(self, text: str) -> int | None:
        """Returns the class that a text refers to, or None.

        Names are compared without regard to case; `_` equals a space.

        Args:
            text: number, synset or name, such as `281`, `n02123045`, `n02123045-tabby`,
                `tabby, tabby cat` or `tabby_cat`.

        Raises:
            ValueError: the text is ambiguous, or is the number of a class that does not exist.
        """
        named = self._named(text)
        if _NUMBER.fullmatch(text):
            number = int(text)
            if named not in ((), (number,)):
                raise ValueError(
                    f"{text!r} is the name of {self._describe(named)}, and the number of "
                    "another class: rename the classes"
                )
            if self.count is not None and number >= self.count:
                raise ValueError(f"{text!r} is no class: the classifier has {self._range()}")
            return number
        if len(named) > 1:
            raise ValueError(
                f"{text!r} is a name of {self._describe(named)}: give the number of the class"
            )
        if named:
            return named[0]
        synset = _SYNSET.fullmatch(text)
        # Networks with 1,000 classes are assumed to have the order of ImageNet for any names.
        if synset and self.count in (None, _NUM_IMAGENET):
            return _synsets().get(synset[1].lower())
        return None

    def explain_unknown(self, text: str) -> str:
        """Returns an error message for a text that is not a class, with an example of a class."""
        if not self.names:
            known = "no class is known by a name" if self.count is None else self._range()
            return (
                f"{text!r} is no number of a class ({known}); names of classes: "
                "--config.classifier.class_names=FILE"
            )
        near = difflib.get_close_matches(_fold(text), self._index, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return (
            f"{text!r} is no class: the classifier has {self._range()}, such as "
            f"{self.names[0]!r}{hint}"
        )

    def number(self, names: Sequence[str], where: str) -> list[int]:
        """Maps the class names of a dataset to class numbers, and logs the mapping.

        Each name is looked up with `find`. If no name is found, the names are assumed to be all
        classes in their order.

        Args:
            names: names of all classes of the dataset, in their order.
            where: name of the dataset, for messages.

        Returns:
            Class number of each name.

        Raises:
            ConfigError: only some names are found, a name is ambiguous, two names refer to the same
                class, or none is found and their number differs from that of the classifier.
        """
        try:
            numbers = [self.find(name) for name in names]
        except ValueError as error:
            raise ConfigError(f"{where}, {len(names)} names: {error}") from error
        found = [number for number in numbers if number is not None]
        unknown = [name for name, number in zip(names, numbers, strict=True) if number is None]
        if unknown and found:
            raise ConfigError(
                f"{where}: {len(found)} of {len(names)} names are known classes, but "
                f"{self.explain_unknown(unknown[0])}"
            )
        if not unknown:
            if twice := [n for i, n in enumerate(names) if found[i] in found[:i]]:
                first = names[found.index(found[names.index(twice[0])])]
                raise ConfigError(
                    f"{where}: {first!r} and {twice[0]!r} are the same class: join them"
                )
            part = (
                f"{len(names)} of {self.count} classes" if self.count else f"{len(names)} classes"
            )
            described = self.describe(dict(zip(names, found, strict=True)))
            _logger.info("%s: %s: %s", where, part, described)
            return found
        if {name.lower() for name in names} <= _SPLITS:
            raise ConfigError(f"{where}: {', '.join(names)} are splits, not classes: open one")
        if self.count not in (None, len(names)):
            raise ConfigError(
                f"{where}: {len(names)} classes, but the classifier has {self._range()}, and names "
                f"such as {unknown[0]!r} do not identify them: name them by their numbers or as "
                "the classifier does"
            )
        forms = [unicodedata.normalize("NFC", name) for name in names]
        counts = Counter(forms)
        twice = [name for name, form in zip(names, forms, strict=True) if counts[form] > 1]
        if twice:
            raise ConfigError(
                f"{where}: {' and '.join(map(ascii, twice[:2]))} differ only in their Unicode "
                "form: join them"
            )
        found = list(range(len(names)))
        _logger.warning(
            "%s: no name is a number, a synset or a class of the classifier, so the names are "
            "numbered in their order: %s",
            where,
            self.describe(dict(zip(names, found, strict=True))),
        )
        return found

    def describe(self, found: dict[str, int]) -> str:
        """Lists the first texts with their classes, for messages."""
        shown = [f"{text} = {self._describe((n,))}" for text, n in found.items()][:_NUM_SHOWN]
        more = f", and {len(found) - _NUM_SHOWN} more" if len(found) > _NUM_SHOWN else ""
        return ", ".join(shown) + more

    def check_numbers(self, numbers: Sequence[int] | np.ndarray, where: str) -> None:
        """Raises `ConfigError` if a label exceeds the classes of the classifier."""
        largest = max(numbers, default=0)
        if self.count is not None and largest >= self.count:
            raise ConfigError(f"{where}: label {largest}, but the classifier has {self._range()}")

    def _describe(self, numbers: Sequence[int]) -> str:
        named = [f"{n} ({self.names[n]})" if n < len(self.names) else str(n) for n in numbers]
        return f"class{'es' * (len(named) > 1)} {' and '.join(named)}"

    def _range(self) -> str:
        return "classes" if self.count is None else f"classes 0 to {self.count - 1}"

    def _named(self, text: str) -> tuple[int, ...]:
        """Returns the classes with this name or synonym; only one if it is the exact name."""
        numbers = self._index.get(_fold(text), ())
        if len(numbers) > 1:
            whole = tuple(number for number in numbers if self.names[number] == text)
            return whole if len(whole) == 1 else numbers
        return numbers

    @functools.cached_property
    def _index(self) -> dict[str, tuple[int, ...]]:
        index: defaultdict[str, set[int]] = defaultdict(set)
        for number, name in enumerate(self.names):
            for part in (name, *name.split(",")):
                index[_fold(part)].add(number)
        index.pop("", None)
        return {name: tuple(sorted(numbers)) for name, numbers in index.items()}


def find_class(text: str, classifier: Classifier, num_classes: int) -> int:
    """Returns the class of a classifier that a text refers to.

    Args:
        text: Name, number or ImageNet synset of the class.
        classifier: Classifier whose class names are searched.
        num_classes: Number of classes of the classifier.

    Raises:
        ConfigError: no class, or more than one, has this name or number.
    """
    classes = Classes.of(classifier)
    try:
        number = classes.find(text)
    except ValueError as error:
        raise ConfigError(f"explain.target: {error}") from error
    if number is None:
        raise ConfigError(f"explain.target: {classes.explain_unknown(text)}")
    if number >= num_classes:
        raise ConfigError(
            f"explain.target is {number}, but {classifier.name!r} has classes 0 to "
            f"{num_classes - 1}"
        )
    return number


def _fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().replace("_", " ").split())


@functools.cache
def _synsets() -> dict[str, int]:
    names = class_names.read_packaged("imagenet_synsets.txt")
    return {name: number for number, name in enumerate(names)}

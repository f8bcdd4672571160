"""The queue of a solver: splits jobs of images into tasks, and collects their results."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np

from cfx_jax.fido import Explanation

Tag = TypeVar("Tag")


class Images(NamedTuple):
    """Images with the target and identity of each, with a leading axis n, or one without it.

    Attributes:
        pixels: uint8 `[n, H, W, C]`, scaled to [0, 1] on the devices.
        targets: int32 `[n]`, classes to explain; -1 takes the predicted class, -2 the next, ...
        identities: uint32 `[n]`; the key of an image is that of the run with its identity folded
            in, so results do not depend on the position of an image.
    """

    pixels: Any
    targets: Any
    identities: Any


@dataclasses.dataclass
class Task:
    """One image and one objective.

    Attributes:
        image: image, target and identity, without a leading axis.
        objective: `"ssr"` or `"sdr"`.
        deliver: callback that receives the `Explanation`, NumPy arrays without a leading axis.
        steps: number of steps taken or skipped, as last read by the host.
        steps_started: number of steps dispatched to the devices.
        is_learnt: whether the host has seen that the mask is learnt.
    """

    image: Images
    objective: str
    deliver: Callable[[Explanation], None]
    steps: int = 0
    steps_started: int = 0
    is_learnt: bool = False


class Jobs(Generic[Tag]):
    """Splits jobs into tasks; takes a job only when its first task is needed.

    Example:
        >>> two = Images(np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, int), np.arange(2))
        >>> jobs = Jobs([("a", two)], ["ssr"])
        >>> tasks = jobs.take(5)
        >>> [task.objective for task in tasks]
        ['ssr', 'ssr']
        >>> for task in tasks:
        ...     task.deliver(np.ones(3))  # In place of an Explanation.
        >>> [(tag, results["ssr"].shape) for tag, results in jobs.done()]
        [('a', (2, 3))]
    """

    def __init__(self, jobs: Iterable[tuple[Tag, Images]], objectives: Sequence[str]) -> None:
        """Takes no job yet.

        Args:
            jobs: pairs of a tag that identifies a job, and its images.
            objectives: objectives to learn for every image, in order.
        """
        self._objectives = objectives
        self._open: list[tuple[Tag, dict[str, list[Explanation | None]]]] = []
        self._tasks = self._split(jobs)

    def take(self, limit: int) -> list[Task]:
        """Returns the next tasks, fewer than `limit` where there are no more."""
        return list(itertools.islice(self._tasks, limit))

    def done(self) -> Iterator[tuple[Tag, dict[str, Explanation]]]:
        """Yields and removes the jobs that are done, in their order."""
        while self._open and all(
            result is not None for results in self._open[0][1].values() for result in results
        ):
            tag, results = self._open.pop(0)
            yield (
                tag,
                {
                    objective: jax.tree.map(lambda *found: np.stack(found), *rows)
                    for objective, rows in results.items()
                },
            )

    def _split(self, jobs: Iterable[tuple[Tag, Images]]) -> Iterator[Task]:
        for tag, images in jobs:
            n = len(images.pixels)
            results: dict[str, list[Explanation | None]] = {
                objective: [None] * n for objective in self._objectives if n
            }
            self._open.append((tag, results))
            for objective, rows in results.items():
                for row in range(n):
                    image = Images(*(array[row] for array in images))
                    yield Task(image, objective, functools.partial(rows.__setitem__, row))

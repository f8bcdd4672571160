"""The queue of a solver: splits jobs of images into tasks, and collects their results."""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np

from cfx_jax.fido import Explanation, Status, name_results

Tag = TypeVar("Tag")
# The explanations of a job, by the name of the result.
_Results = dict[str, list[Explanation | None]]


class Images(NamedTuple):
    """Images with their targets and identities, with a leading axis n; or one image without it.

    Attributes:
        pixels: pixel values, uint8 `[n, H, W, C]`, scaled to [0, 1] on the devices.
        targets: classes to explain, int32 `[n]`; -1 = the predicted class, -2 = the next, ...
        identities: integers, uint32 `[n]`, that are folded into the key of the run to get the key
            of each image, so results do not depend on the position of an image.
        allowed: pixels that the region may contain, bool `[n, H, W]`; None = all.
    """

    pixels: Any
    targets: Any
    identities: Any
    allowed: Any = None


@dataclasses.dataclass
class Task:
    """One search: an image, an objective and the regions found before.

    Attributes:
        image: image, target and identity, without a leading axis.
        objective: objective to learn, `"ssr"` or `"sdr"`.
        deliver: callback that receives the `Explanation`, NumPy arrays without a leading axis.
        earlier: regions of the same image and objective that were found before, bool `[H, W]` each.
        steps: number of steps taken or skipped, as last read by the host.
        steps_started: number of steps dispatched to the devices.
        is_learnt: whether the host has seen that the mask is learnt.
    """

    image: Images
    objective: str
    deliver: Callable[[Explanation], None]
    earlier: Sequence[np.ndarray] = ()
    steps: int = 0
    steps_started: int = 0
    is_learnt: bool = False


class Jobs(Generic[Tag]):
    """Queue that splits jobs into tasks; it takes a job only when its first task is needed.

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

    def __init__(
        self,
        jobs: Iterable[tuple[Tag, Images]],
        objectives: Sequence[str],
        alternatives: int = 1,
    ) -> None:
        """Prepares the queue; no job is taken yet.

        Args:
            jobs: pairs of a tag that identifies a job, and its images.
            objectives: objectives to learn for every image, in order.
            alternatives: number of regions to search for per image and objective. Each further
                search begins when the previous region is found.
        """
        self._objectives = objectives
        self._alternatives = alternatives
        self._further = collections.deque[Task]()
        self._open: list[tuple[Tag, _Results]] = []
        self._tasks = self._split(jobs)

    @property
    def has_further(self) -> bool:
        """Whether a delivered result has led to another task."""
        return bool(self._further)

    def take(self, limit: int) -> list[Task]:
        """Returns the next tasks, fewer than `limit` if there are no more."""
        further = [self._further.popleft() for _ in range(min(limit, len(self._further)))]
        return further + list(itertools.islice(self._tasks, limit - len(further)))

    def done(self) -> Iterator[tuple[Tag, dict[str, Explanation]]]:
        """Yields and removes the jobs that are done, in order, up to the first that is not."""
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
            results: _Results = {
                name: [None] * n
                for objective in self._objectives
                for name in name_results(objective, self._alternatives)
                if n
            }
            self._open.append((tag, results))
            for objective in self._objectives:
                for row in range(n):
                    image = jax.tree.map(lambda array, row=row: array[row], images)
                    yield self._make_task(image, objective, results, row)

    def _make_task(
        self,
        image: Images,
        objective: str,
        results: _Results,
        row: int,
        earlier: tuple[Explanation, ...] = (),
    ) -> Task:
        def deliver(found: Explanation) -> None:
            every = (*earlier, found)
            names = name_results(objective, self._alternatives)
            if len(every) < len(names) and found.status == Status.OK and found.region.any():
                self._further.append(self._make_task(image, objective, results, row, every))
                return
            if len(names) > 1:
                none = found.replace(status=np.int32(Status.NO_ALTERNATIVE))
                every += (none,) * (len(names) - len(every))
                every = tuple(sorted(every, key=_rank))
            for name, one in zip(names, every, strict=True):
                results[name][row] = one

        return Task(image, objective, deliver, [np.asarray(one.region) for one in earlier])


def _rank(found: Explanation) -> tuple[bool, bool, float]:
    """Returns the key by which the results of an image are sorted: the smallest region first."""
    status = int(found.status)
    return status == Status.NO_ALTERNATIVE, status != Status.OK, float(np.mean(found.region))

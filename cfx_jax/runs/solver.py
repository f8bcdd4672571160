"""The host loop of an optimisation: a batch on all local devices, each image in a place (row).

As soon as an image is done, the next image takes its place, so no place stays empty while other
images take more steps. The host dispatches one compiled program ahead: while it prepares images and
reads results, the devices already run the next program.

A job is a group of images with a tag; a task is one image with one objective.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cfx_jax.classifiers import Classifier
from cfx_jax.fido import Explanation, Problem, Settings, State
from cfx_jax.generators import Generator, check_key
from cfx_jax.runs import parallel
from cfx_jax.runs._devices import Devices
from cfx_jax.runs.idle import IdleMeter
from cfx_jax.runs.jobs import Images, Jobs, Tag, Task


@dataclasses.dataclass
class _Pool:
    """The batch on the devices: the task and the state of each place; None in a free place."""

    tasks: list[Task | None]
    problem: Problem | None = None
    state: State | None = None


class _Call(NamedTuple):
    """A dispatched call of `advance`: its outputs, and the tasks they belong to.

    Attributes:
        state: state after the call, on the devices.
        is_done: whether the image in each place is done, bool, on the devices.
        targets: class to explain in each place, on the devices.
        tasks: the tasks of the call, by place.
    """

    state: State
    is_done: jax.Array
    targets: jax.Array
    tasks: dict[int, Task]


class _Learnt(NamedTuple):
    """A task whose mask is learnt but not yet evaluated; NumPy arrays without a leading axis."""

    task: Task
    state: State
    target: np.ndarray


class Solver:
    """Solver of images on all local devices, with programs compiled once for the whole run.

    Example:
        >>> import jax, numpy as np, cfx_jax
        >>> from cfx_jax.fido.settings import get_settings
        >>> classifier = cfx_jax.Classifier(params=(), apply=lambda _, x: x.mean((1, 2)))
        >>> generator = cfx_jax.load_generator("grey")
        >>> settings = get_settings("fast", num_steps=2, mask_size=4)
        >>> key = jax.random.key(0)
        >>> solver = Solver(key, classifier, generator, settings, ["ssr"], (8, 8, 3))
        >>> _ = solver.compile(per_device_batch_size=2)
        >>> images = Images(np.ones((2, 8, 8, 3), np.uint8), np.zeros(2, int), np.arange(2))
        >>> for name, explanations in solver.stream([("both", images)]):
        ...     print(name, explanations["ssr"].saliency.shape)
        both (2, 8, 8)
    """

    def __init__(
        self,
        key: jax.Array,
        classifier: Classifier,
        generator: Generator,
        settings: Settings,
        objectives: Sequence[str],
        shape: tuple[int, int, int],
        devices: Sequence[jax.Device] | None = None,
        contrast: int | None = None,
        has_allowed: bool = False,
    ) -> None:
        """Copies the models to the devices; nothing is compiled yet.

        Args:
            key: random key of the run.
            classifier: the model to explain.
            generator: model that fills the holes.
            settings: hyper-parameters, the same for every image.
            objectives: objectives, `"ssr"`, `"sdr"` or both, in the order in which they are solved.
            shape: shape `(H, W, C)` of every image.
            devices: local devices to use; None = all.
            contrast: class k of the question "why the target rather than k?"; None for the question
                "why the target?".
            has_allowed: whether the images come with the pixels that a region may contain.
        """
        self._objectives = list(objectives)
        self._alternatives = settings.alternatives
        self._num_steps = settings.num_steps
        local = devices or jax.local_devices()
        models = (classifier, generator)
        self._devices = Devices(
            check_key(key), models, settings, shape, local, contrast, has_allowed
        )

    @property
    def num_devices(self) -> int:
        """Number of devices that work on a batch together."""
        return self._devices.num_devices

    @property
    def per_device_batch_size(self) -> int:
        """Number of images per device in the programs compiled last; 0 before `compile`."""
        return self._devices.rows_per_device

    @property
    def idle_share(self) -> float:
        """Upper bound of the share of time in which the devices were idle during `stream`."""
        return self._devices.idle_meter.idle_share

    def compile(self, per_device_batch_size: int) -> int:
        """Compiles the programs, in place of those compiled before.

        Args:
            per_device_batch_size: number of images optimised together on one device, at least 1.

        Returns:
            Memory on one device, in bytes, of the larger of the programs `advance` and `finish`,
            parameters included, according to the memory analysis of XLA.
        """
        return self._devices.compile(per_device_batch_size)

    def stream(
        self,
        jobs: Iterable[tuple[Tag, Images]],
        on_progress: Callable[[str, int, float], None] = lambda objective, steps, value: None,
    ) -> Iterator[tuple[Tag, dict[str, Explanation]]]:
        """Solves jobs; images of the next job take the places of images that are done.

        Args:
            jobs: pairs of any tag, which is returned with the results, and n >= 0 images.
            on_progress: function called after every few steps with the name of the objective, the
                number of steps taken or skipped since its last call, summed over the images, and
                the mean value of the objective of these images. The mean excludes values that are
                not finite; it is NaN if no value is finite.

        Yields:
            In the order of the jobs, the tag and a dict from the name of a result (an objective, or
            `ssr_2` for an alternative) to an `Explanation` of NumPy arrays with a leading axis n;
            the dict of a job without images is empty.

        Raises:
            RuntimeError: nothing is compiled yet.
        """
        if not self._devices.is_compiled:
            raise RuntimeError("nothing is compiled yet; call compile first")
        self._devices.idle_meter = IdleMeter()
        queue = Jobs(jobs, self._objectives, self._alternatives)
        pool = _Pool([None] * self._devices.num_rows)
        learnt: list[_Learnt] = []
        finished: collections.deque[tuple[list[Task], Explanation]] = collections.deque()
        last: _Call | None = None
        is_over = False
        while not is_over:
            self._fill(pool, queue)
            call = self._call(pool)
            # The devices are busy with this call, so the host can read results of the last call.
            learnt += self._check_done(pool, last, on_progress) if last else []
            while finished:
                self._deliver(*finished.popleft())
            is_idle = call is None
            while len(learnt) >= len(pool.tasks) or (learnt and is_idle):
                finished.append(self._finish(learnt[: len(pool.tasks)]))
                learnt = learnt[len(pool.tasks) :]
            while finished and is_idle:
                self._deliver(*finished.popleft())
            yield from queue.done()
            last, is_over = call, is_idle and not queue.has_further

    def _fill(self, pool: _Pool, queue: Jobs[Any]) -> None:
        """Puts the next tasks into the free places of the pool."""
        free = [place for place, task in enumerate(pool.tasks) if task is None]
        fresh = queue.take(len(free))
        if not fresh:
            return
        places = free[: len(fresh)]
        for place, task in zip(places, fresh, strict=True):
            pool.tasks[place] = task
        # A place that stays free gets a copy of a real image, so that it produces no NaN; the copy
        # takes no steps.
        tasks = [task or fresh[0] for task in pool.tasks]
        is_fresh = np.isin(np.arange(len(tasks)), places)
        others = None
        if len(fresh) < len(tasks) and pool.problem is not None and pool.state is not None:
            others = pool.problem, pool.state
        pool.problem, pool.state = self._devices.begin(tasks, is_fresh, others)

    def _call(self, pool: _Pool) -> _Call | None:
        """Dispatches the next steps of a pool; returns None if the pool is empty."""
        tasks = {place: task for place, task in enumerate(pool.tasks) if task}
        if not tasks or pool.problem is None or pool.state is None:
            return None
        pool.state, is_done = self._devices.advance(pool.state, pool.problem)
        for place, task in tasks.items():
            task.steps_started += self._devices.steps_per_call
            # The last step of this task is dispatched, so its place is free for the next call.
            if task.steps_started == self._num_steps:
                pool.tasks[place] = None
        return _Call(pool.state, is_done, pool.problem.question.target, tasks)

    def _check_done(
        self, pool: _Pool, call: _Call, on_progress: Callable[[str, int, float], None]
    ) -> list[_Learnt]:
        """Waits for a call, reports its progress, and removes the tasks whose mask is learnt."""
        rows = len(pool.tasks)
        steps, trace, is_done, targets = parallel.unshard(
            (call.state.step, call.state.trace, call.is_done, call.targets), rows
        )
        self._devices.idle_meter.check()
        over = [
            place for place, task in call.tasks.items() if not task.is_learnt and is_done[place]
        ]
        progress: dict[str, tuple[list[int], list[float]]] = {}
        for place, task in call.tasks.items():
            if not task.is_learnt:
                taken, values = progress.setdefault(task.objective, ([], []))
                reached = self._num_steps if is_done[place] else int(steps[place])
                taken.append(reached - task.steps)
                values.append(float(trace[place, steps[place] - 1]))
                task.steps, task.is_learnt = reached, bool(is_done[place])
        for objective, (taken, values) in progress.items():
            finite = [value for value in values if math.isfinite(value)]
            on_progress(objective, sum(taken), float(np.mean(finite)) if finite else math.nan)
        states = parallel.unshard(call.state, rows) if over else None
        learnt = []
        for place in over:
            task = call.tasks[place]
            if pool.tasks[place] is task:
                pool.tasks[place] = None
            state = jax.tree.map(lambda array, place=place: array[place], states)
            learnt.append(_Learnt(task, state, targets[place]))
        return learnt

    def _finish(self, learnt: list[_Learnt]) -> tuple[list[Task], Explanation]:
        """Dispatches the hard-mask evaluation of learnt masks."""
        tasks, states, targets = (list(column) for column in zip(*learnt, strict=True))
        return tasks, self._devices.finish(tasks, states, targets)

    def _deliver(self, tasks: list[Task], finished: Explanation) -> None:
        found = parallel.unshard(finished, len(tasks))
        self._devices.idle_meter.check()
        for row, task in enumerate(tasks):
            task.deliver(jax.tree.map(lambda array, row=row: array[row], found))

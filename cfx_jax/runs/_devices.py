"""The compiled programs of a run on its devices: begin, advance and finish rows of images.

`cfx_jax.runs.solver` is the loop on the host that assigns images to these rows.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.classifiers import Classifier, resolve_rank
from cfx_jax.data import to_floats
from cfx_jax.fido import (
    DIRECTIONS,
    Explanation,
    Problem,
    Question,
    Settings,
    State,
    advance,
    check_alternative,
    extra_prices,
    finish,
    init,
    is_done,
    make_problem,
    price_allowed,
)
from cfx_jax.generators import Generator
from cfx_jax.runs import parallel
from cfx_jax.runs.idle import IdleMeter
from cfx_jax.runs.jobs import Images, Task

# `advance` returns to Python after at most this many steps, to update the progress bar and to put
# new images into the rows of those that are done.
_MAX_STEPS_PER_CALL = 5
_OBJECTIVES = list(DIRECTIONS)


class _Requests(NamedTuple):
    """Images with their targets and objectives, axes `[devices, rows, ...]`; or a single row.

    Attributes:
        pixels: pixel values, uint8 `[..., H, W, C]`.
        targets: classes to explain, int32; below 0 a rank, see `cfx_jax.runs.jobs.Images`.
        identities: integers that are folded into the key of the run, uint32.
        objectives: index in `DIRECTIONS`, int32.
        allowed: pixels that the region may contain, bool `[..., H, W]`; None = all.
        earlier: regions found before, padded with empty regions, bool `[..., R, H, W]`; None if
            only one region is searched for.
    """

    pixels: Any
    targets: Any
    identities: Any
    objectives: Any
    allowed: Any = None
    earlier: Any = None


class _Shared(NamedTuple):
    """Values that all images of a run share: the key of the run, and the contrast class."""

    key: jax.Array
    contrast: jax.Array | None


class Devices:
    """The devices of one run, with its models; arrays on them have axes `[devices, rows, ...]`.

    Attributes:
        idle_meter: meter of the idle time of the devices; assign a new one to restart it.
        rows_per_device: number of images per device in the programs compiled last; 0 before
            `compile`.
        steps_per_call: number of optimiser steps per call of `advance`.
    """

    def __init__(
        self,
        key: jax.Array,
        models: tuple[Classifier, Generator],
        settings: Settings,
        shape: tuple[int, int, int],
        devices: Sequence[jax.Device],
        contrast: int | None = None,
        has_allowed: bool = False,
    ) -> None:
        """Copies the models to the devices; nothing is compiled yet. Arguments as in `Solver`."""
        self._devices = list(devices)
        self._shape = shape
        self._num_alternatives = settings.alternatives
        self._has_allowed = has_allowed
        other = None if contrast is None else jnp.asarray(contrast, jnp.int32)
        self._shared = parallel.replicate(_Shared(key, other), self._devices)
        self._models = parallel.replicate(models, self._devices)
        self._compiled: tuple[Any, Any] | None = None
        self.idle_meter = IdleMeter()
        self.rows_per_device = 0
        self.steps_per_call = _largest_divisor(settings.num_steps, _MAX_STEPS_PER_CALL)

        def mapped(function: Callable[..., Any], num_mapped: int, num_shared: int) -> Any:
            return parallel.map_over_devices(
                function, self._devices, num_mapped=num_mapped, num_shared=num_shared
            )

        self._name_target = mapped(_name_target, 2, 1)
        # `_begin` returns the problem, so that its image is copied to its device only once.
        self._begin = mapped(functools.partial(_begin, settings=settings), 2, 1)
        self._replace = mapped(_replace, 3, 0)
        steps = self.steps_per_call
        self._advance = mapped(
            functools.partial(_advance, settings=settings, num_steps=steps), 2, 2
        )
        self._finish = mapped(functools.partial(_finish, settings=settings), 2, 3)

    @property
    def num_devices(self) -> int:
        """Number of devices that work on rows together."""
        return len(self._devices)

    @property
    def num_rows(self) -> int:
        """Number of images on all devices in the programs compiled last."""
        return self.num_devices * self.rows_per_device

    @property
    def is_compiled(self) -> bool:
        """Whether `advance` and `finish` can be called."""
        return self._compiled is not None

    def compile(self, rows_per_device: int) -> int:
        """Compiles the two long programs, in place of those compiled before.

        Args:
            rows_per_device: number of images on one device, at least 1.

        Returns:
            Bytes that the larger of the two programs takes on one device, parameters included,
            according to the memory analysis of XLA.
        """
        self.rows_per_device = rows_per_device
        self._compiled = None  # Frees the memory of the earlier programs.
        allowed = np.ones(self._shape[:2], bool) if self._has_allowed else None
        blank = Images(np.zeros(self._shape, np.uint8), np.int32(0), np.uint32(0), allowed)
        requests = self._collect([Task(blank, _OBJECTIVES[0], lambda _: None)])
        problem, state = self._begin(requests, self._shard(np.ones(1, bool)), self._shared)
        # Compile both concurrently: Python traces `advance` while XLA, on another core, compiles
        # `finish`.
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="compile") as threads:
            finish = self._finish.lower(state, requests, self._shared, *self._models)
            compiling = threads.submit(finish.compile)
            advance = self._advance.lower(state, problem, *self._models).compile()
            self._compiled = (advance, compiling.result())
        return max(map(_bytes_needed, self._compiled))

    def begin(
        self, tasks: Sequence[Task], is_fresh: np.ndarray, others: tuple[Problem, State] | None
    ) -> tuple[Problem, State]:
        """Begins new tasks in some of the rows; the other rows continue.

        Args:
            tasks: one task per row; rows that are not fresh may repeat the task of another row.
            is_fresh: marks of the rows that begin, bool `[num_rows]`.
            others: problem and state of the other rows, which continue; None if none is active.

        Returns:
            The problem and the state of all rows.
        """
        requests, fresh = self._collect(tasks), self._shard(is_fresh)
        if (requests.targets < 0).any():
            targets = self._name_target(requests.pixels, requests.targets, self._models[0])
            requests = requests._replace(targets=targets)
        begun: tuple[Problem, State] = self._begin(requests, fresh, self._shared)
        return begun if others is None else self._replace(fresh, begun, others)

    def advance(self, state: State, problem: Problem) -> tuple[State, jax.Array]:
        """Takes the next `steps_per_call` steps in all rows that are not done.

        Returns:
            The state, and for each row whether it is done, bool.
        """
        assert self._compiled is not None
        advanced: tuple[State, jax.Array] = self.idle_meter.run(
            self._compiled[0], state, problem, *self._models
        )
        return advanced

    def finish(
        self, tasks: Sequence[Task], states: Sequence[State], targets: Sequence[np.ndarray]
    ) -> Explanation:
        """Evaluates learnt masks.

        Args:
            tasks: at most `num_rows` tasks.
            states: state of each task, NumPy arrays.
            targets: class to explain of each task, int scalars.

        Returns:
            An `Explanation` of all rows, on the devices.
        """
        assert self._compiled is not None
        state = self._shard(jax.tree.map(lambda *rows: np.stack(rows), *states))
        requests = self._collect(tasks)._replace(targets=self._shard(np.stack(targets)))
        finished: Explanation = self.idle_meter.run(
            self._compiled[1], state, requests, self._shared, *self._models
        )
        return finished

    def _collect(self, tasks: Sequence[Task]) -> _Requests:
        images = jax.tree.map(lambda *rows: np.stack(rows), *(task.image for task in tasks))
        codes = np.asarray([_OBJECTIVES.index(task.objective) for task in tasks], np.int32)
        earlier = None
        if self._num_alternatives > 1:
            shape = (len(tasks), self._num_alternatives - 1, *self._shape[:2])
            earlier = np.zeros(shape, bool)
            for row, task in enumerate(tasks):
                earlier[row, : len(task.earlier)] = task.earlier or False
        typed = _Requests(
            images.pixels,
            images.targets.astype(np.int32),
            images.identities.astype(np.uint32),
            codes,
            images.allowed,
            earlier,
        )
        requests: _Requests = self._shard(typed)
        return requests

    def _shard(self, rows: Any) -> Any:
        return parallel.shard(rows, self.num_devices, self.rows_per_device)


def _begin(
    request: _Requests, is_fresh: jax.Array, shared: _Shared, *, settings: Settings
) -> tuple[Problem, State]:
    problem = _problem(request, shared)
    state = init(settings, problem)
    step = jnp.where(is_fresh, state.step, settings.num_steps)
    return problem, dataclasses.replace(state, step=step)


def _problem(request: _Requests, shared: _Shared) -> Problem:
    key = jax.random.fold_in(shared.key, request.identities)
    question = Question(request.targets, shared.contrast)
    prices = None
    if request.allowed is not None:
        prices = price_allowed(request.allowed)
    if request.earlier is not None:
        prices = extra_prices(request.earlier) + (1.0 if prices is None else prices)
    return make_problem(key, to_floats(request.pixels), question, request.objectives, prices)


def _replace(is_fresh: jax.Array, fresh: Any, old: Any) -> Any:
    return jax.tree.map(functools.partial(jnp.where, is_fresh), fresh, old)


def _name_target(pixels: jax.Array, target: jax.Array, classifier: Classifier) -> jax.Array:
    logits = classifier.apply(classifier.params, to_floats(pixels)[None])[0]
    return resolve_rank(logits, target)


def _advance(
    state: State,
    problem: Problem,
    classifier: Classifier,
    generator: Generator,
    *,
    settings: Settings,
    num_steps: int,
) -> tuple[State, jax.Array]:
    state = advance(state, problem, classifier, generator, settings=settings, num_steps=num_steps)
    return state, is_done(state, settings)


def _finish(
    state: State,
    request: _Requests,
    shared: _Shared,
    classifier: Classifier,
    generator: Generator,
    *,
    settings: Settings,
) -> Explanation:
    problem = _problem(request, shared)
    found = finish(state, problem, classifier, generator, settings=settings)
    if request.earlier is None:
        return found
    return found.replace(status=check_alternative(found, request.earlier, settings.max_overlap))


def _bytes_needed(program: Any) -> int:
    analysis = program.memory_analysis()
    names = ("argument", "output", "temp", "generated_code")
    return sum(getattr(analysis, f"{name}_size_in_bytes") for name in names)


def _largest_divisor(number: int, limit: int) -> int:
    """Returns the largest divisor up to a limit; a remainder would require a second program."""
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)

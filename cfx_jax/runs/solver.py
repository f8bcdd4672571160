"""The host loop of an optimisation: images on all local devices, each in a place of its own.

An image that is done gives its place to the next one, so devices wait for no image. The host stays
one compiled program ahead of the devices: while it looks at one program, prepares images or takes
results, the devices already work on another.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfx_jax.classifiers import Classifier, resolve
from cfx_jax.data.images import to_floats
from cfx_jax.fido.explain import finish
from cfx_jax.fido.explanation import Explanation
from cfx_jax.fido.objective import DIRECTIONS, Problem, make_problem
from cfx_jax.fido.optimisation import State, advance, init, is_done
from cfx_jax.fido.settings import Settings
from cfx_jax.generators import Generator
from cfx_jax.runs import parallel
from cfx_jax.runs.idle import IdleMeter
from cfx_jax.runs.jobs import Images, Jobs, Tag, Task

# `advance` comes back to Python at least this often: to move the progress bar, and to give the
# places of images that are done to others.
_MAX_STEPS_PER_CALL = 5
_OBJECTIVES = list(DIRECTIONS)


@dataclasses.dataclass
class _Pool:
    """What the devices work on: a task and its state in each place, or None in a free one."""

    tasks: list[Task | None]
    problem: Problem | None = None
    state: State | None = None


class _Call(NamedTuple):
    """A call of `advance` that was started: what it gives, and for whom.

    Attributes:
        state: after it, on the devices.
        is_done: bool, on the devices.
        targets: of the problems, on the devices.
        tasks: by place, those that it was for.
    """

    state: State
    is_done: jax.Array
    targets: jax.Array
    tasks: dict[int, Task]


class _Learnt(NamedTuple):
    """A task whose mask is learnt and not judged yet; numpy, without a leading axis."""

    task: Task
    state: State
    target: np.ndarray


class Solver:
    """Explains images on all local devices with programs compiled once for the whole run.

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
    ) -> None:
        """Copies the models to the devices; nothing is compiled yet.

        Args:
            key: random key of the run.
            classifier: the model to explain.
            generator: fills the holes.
            settings: of every image.
            objectives: `"ssr"`, `"sdr"` or both, in the order to solve them.
            shape: `(H, W, C)` of every image.
            devices: local devices to use; None takes all.
        """
        self._devices = list(devices or jax.local_devices())
        self._objectives = list(objectives)
        self._shape = shape
        self._rows_per_device = 0
        self._steps_per_call = _largest_divisor(settings.num_steps, _MAX_STEPS_PER_CALL)
        self._num_steps = settings.num_steps
        self._key = parallel.replicate(key, self._devices)
        self._models = parallel.replicate((classifier, generator), self._devices)
        self._idle_meter = IdleMeter()
        self._compiled: tuple[Any, Any] | None = None

        def mapped(function: Callable[..., Any], num_mapped: int, num_shared: int) -> Any:
            return parallel.map_over_devices(
                function, self._devices, num_mapped=num_mapped, num_shared=num_shared
            )

        self._name_target = mapped(_name_target, 2, 1)
        # Gives the problem back, so that its image crosses to its device once and stays there.
        self._begin = mapped(functools.partial(_begin, settings=settings), 5, 1)
        self._replace = mapped(_replace, 3, 0)
        steps = self._steps_per_call
        self._advance = mapped(
            functools.partial(_advance, settings=settings, num_steps=steps), 2, 2
        )
        self._finish = mapped(functools.partial(_finish, settings=settings), 5, 3)

    @property
    def num_devices(self) -> int:
        """Devices that work on a batch together."""
        return len(self._devices)

    @property
    def per_device_batch_size(self) -> int:
        """Images optimised together on one device, as compiled last; 0 before."""
        return self._rows_per_device

    @property
    def idle_share(self) -> float:
        """Share of the time of `stream`, at most, in which the devices had nothing to do."""
        return self._idle_meter.idle_share

    def compile(self, per_device_batch_size: int) -> int:
        """Compiles the programs, in place of those compiled before.

        Args:
            per_device_batch_size: images optimised together on one device, at least 1.

        Returns:
            Bytes that the larger of the two long programs takes on one device, parameters included,
            by its own memory analysis.
        """
        self._rows_per_device = per_device_batch_size
        self._compiled = None  # Frees the memory of the programs before.
        blank = Images(np.zeros(self._shape, np.uint8), np.int32(0), np.uint32(0))
        asked = self._ask([Task(blank, self._objectives[0], lambda _: None)])
        problem, state = self._begin(*asked, self._shard(np.ones(1, bool)), self._key)
        # At once: Python traces the second program while XLA, on another core, compiles the first.
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="compile") as threads:
            finish = self._finish.lower(state, *asked, self._key, *self._models)
            compiling = threads.submit(finish.compile)
            advance = self._advance.lower(state, problem, *self._models).compile()
            self._compiled = (advance, compiling.result())
        return max(map(_bytes_needed, self._compiled))

    def stream(
        self,
        jobs: Iterable[tuple[Tag, Images]],
        on_progress: Callable[[str, int, float], None] = lambda objective, steps, value: None,
    ) -> Iterator[tuple[Tag, dict[str, Explanation]]]:
        """Solves jobs; the images of the next ones take the places of those that are done.

        Args:
            jobs: a name of your own for each job, and its images, n >= 0.
            on_progress: told, now and then, the objective, how many steps were taken or spared
                since it was last told, summed over the images, and the mean objective of these
                images, leaving out those that are not finite (NaN when none is).

        Yields:
            In the order of the jobs, the name and by objective an `Explanation` of numpy arrays
            with a leading axis n; no objective for a job without images.

        Raises:
            RuntimeError: nothing is compiled yet.
        """
        if self._compiled is None:
            raise RuntimeError("nothing is compiled yet; call compile first")
        self._idle_meter = IdleMeter()
        owed = Jobs(jobs, self._objectives)
        pool = _Pool([None] * (len(self._devices) * self._rows_per_device))
        learnt: list[_Learnt] = []
        judged: collections.deque[tuple[list[Task], Explanation]] = collections.deque()
        last: _Call | None = None
        is_over = False
        while not is_over:
            self._fill(pool, owed)
            call = self._call(pool)
            # The devices have work, so the host has time for what they did before.
            learnt += self._look(pool, last, on_progress) if last else []
            while judged:
                self._deliver(*judged.popleft())
            is_over = call is None
            while len(learnt) >= len(pool.tasks) or (learnt and is_over):
                judged.append(self._judge(learnt[: len(pool.tasks)]))
                learnt = learnt[len(pool.tasks) :]
            while judged and is_over:
                self._deliver(*judged.popleft())
            yield from owed.done()
            last = call

    def _fill(self, pool: _Pool, owed: Jobs[Any]) -> None:
        """Gives the free places of the pool to the next tasks."""
        free = [place for place, task in enumerate(pool.tasks) if task is None]
        fresh = owed.take(len(free))
        if not fresh:
            return
        places = free[: len(fresh)]
        for place, task in zip(places, fresh, strict=True):
            pool.tasks[place] = task
        # Places that nobody has stand still with a real image, which can produce no NaN.
        pixels, targets, *others = self._ask([task or fresh[0] for task in pool.tasks])
        if (targets < 0).any():
            targets = self._name_target(pixels, targets, self._models[0])
        is_fresh = self._shard(np.isin(np.arange(len(pool.tasks)), places))
        begun = self._begin(pixels, targets, *others, is_fresh, self._key)
        if len(fresh) < len(pool.tasks) and pool.state is not None:
            begun = self._replace(is_fresh, begun, (pool.problem, pool.state))
        pool.problem, pool.state = begun

    def _call(self, pool: _Pool) -> _Call | None:
        """Starts the next steps of a pool; None where nothing is in it."""
        tasks = {place: task for place, task in enumerate(pool.tasks) if task}
        if not tasks or pool.problem is None:
            return None
        assert self._compiled is not None
        pool.state, is_done = self._idle_meter.run(
            self._compiled[0], pool.state, pool.problem, *self._models
        )
        for place, task in tasks.items():
            task.steps_started += self._steps_per_call
            # Its end is known beforehand, so its place is free for the very next call.
            if task.steps_started == self._num_steps:
                pool.tasks[place] = None
        return _Call(pool.state, is_done, pool.problem.target, tasks)

    def _look(
        self, pool: _Pool, call: _Call, on_progress: Callable[[str, int, float], None]
    ) -> list[_Learnt]:
        """Waits for a call; tells of its progress, and takes out whose mask is learnt."""
        rows = len(pool.tasks)
        steps, trace, is_done, targets = parallel.unshard(
            (call.state.step, call.state.trace, call.is_done, call.targets), rows
        )
        self._idle_meter.look()
        over = [
            place for place, task in call.tasks.items() if not task.is_learnt and is_done[place]
        ]
        told: dict[str, tuple[list[int], list[float]]] = {}
        for place, task in call.tasks.items():
            if not task.is_learnt:
                taken, values = told.setdefault(task.objective, ([], []))
                reached = self._num_steps if is_done[place] else int(steps[place])
                taken.append(reached - task.steps)
                values.append(float(trace[place, steps[place] - 1]))
                task.steps, task.is_learnt = reached, bool(is_done[place])
        for objective, (taken, values) in told.items():
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

    def _judge(self, learnt: list[_Learnt]) -> tuple[list[Task], Explanation]:
        """Starts judging learnt masks."""
        assert self._compiled is not None
        tasks, states, targets = zip(*learnt, strict=True)
        state = self._shard(jax.tree.map(lambda *rows: np.stack(rows), *states))
        pixels, _, *others = self._ask(tasks)
        judged = self._idle_meter.run(
            self._compiled[1],
            state,
            pixels,
            self._shard(np.stack(targets)),
            *others,
            self._key,
            *self._models,
        )
        return list(tasks), judged

    def _deliver(self, tasks: list[Task], judged: Explanation) -> None:
        found = parallel.unshard(judged, len(tasks))
        self._idle_meter.look()
        for row, task in enumerate(tasks):
            task.deliver(jax.tree.map(lambda array, row=row: array[row], found))

    def _ask(self, tasks: Sequence[Task]) -> tuple[Any, Any, Any, Any]:
        """Returns pixels, targets, identities and objectives of tasks, for the devices."""
        pixels, targets, identities = (
            np.stack(arrays) for arrays in zip(*(task.image for task in tasks), strict=True)
        )
        codes = np.asarray([_OBJECTIVES.index(task.objective) for task in tasks], np.int32)
        typed = pixels, targets.astype(np.int32), identities.astype(np.uint32), codes
        sharded: tuple[Any, Any, Any, Any] = self._shard(typed)
        return sharded

    def _shard(self, rows: Any) -> Any:
        return parallel.shard(rows, len(self._devices), self._rows_per_device)


def _begin(
    pixels: jax.Array,
    target: jax.Array,
    identity: jax.Array,
    objective: jax.Array,
    is_fresh: jax.Array,
    key: jax.Array,
    *,
    settings: Settings,
) -> tuple[Problem, State]:
    state = init(settings)
    step = jnp.where(is_fresh, state.step, settings.num_steps)
    return _problem(pixels, target, identity, objective, key), dataclasses.replace(state, step=step)


def _problem(
    pixels: jax.Array, target: jax.Array, identity: jax.Array, objective: jax.Array, key: jax.Array
) -> Problem:
    key = jax.random.fold_in(key, identity)
    return make_problem(key, to_floats(pixels), target, objective)


def _replace(is_fresh: jax.Array, fresh: Any, old: Any) -> Any:
    return jax.tree.map(functools.partial(jnp.where, is_fresh), fresh, old)


def _name_target(pixels: jax.Array, target: jax.Array, classifier: Classifier) -> jax.Array:
    logits = classifier.apply(classifier.params, to_floats(pixels)[None])[0]
    return resolve(logits, target)


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
    pixels: jax.Array,
    target: jax.Array,
    identity: jax.Array,
    objective: jax.Array,
    key: jax.Array,
    classifier: Classifier,
    generator: Generator,
    *,
    settings: Settings,
) -> Explanation:
    problem = _problem(pixels, target, identity, objective, key)
    return finish(state, problem, classifier, generator, settings=settings)


def _bytes_needed(program: Any) -> int:
    analysis = program.memory_analysis()
    names = ("argument", "output", "temp", "generated_code")
    return sum(getattr(analysis, f"{name}_size_in_bytes") for name in names)


def _largest_divisor(number: int, limit: int) -> int:
    """Calls of equal length need one compiled program; a remainder would need a second."""
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)

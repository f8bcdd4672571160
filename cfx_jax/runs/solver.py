"""The host loop of an optimisation: jobs of images on all local devices, with progress.

The host stays one compiled program ahead of the devices: while it reports on one program, fetches
results or prepares the next job, the devices already work on another.
"""

import collections
import concurrent.futures
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from cfx_jax.classifiers import Classifier, resolve
from cfx_jax.data.images import to_floats
from cfx_jax.fido.explain import State, advance, finish, init
from cfx_jax.fido.explanation import Explanation
from cfx_jax.fido.objective import Problem, make_problem
from cfx_jax.fido.settings import Settings
from cfx_jax.generators import Generator
from cfx_jax.runs import parallel

# `advance` comes back to Python at least this often, to move the progress bar.
_MAX_STEPS_PER_CALL = 5
# Programs started before the host waits for an earlier one. With one, the end of a job would be
# waited for before the next job is begun.
_PROGRAMS_AHEAD = 2
_Tag = TypeVar("_Tag")


class Images(NamedTuple):
    """Images and what is asked of each, with a leading axis n; without it one of them.

    Attributes:
        pixels: uint8 `[n, H, W, C]`, scaled to [0, 1] on the devices.
        targets: int32 `[n]`, classes to explain; -1 takes the predicted class, -2 the next, ...
        identities: uint32 `[n]`; the key of an image is that of the run with its identity folded
            in, so nothing depends on the place of an image.
    """

    pixels: Any
    targets: Any
    identities: Any


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
        self._shape = shape
        self._rows_per_device = 0
        self._steps_per_call = _largest_divisor(settings.num_steps, _MAX_STEPS_PER_CALL)
        self._num_calls = settings.num_steps // self._steps_per_call
        self._key = parallel.replicate(key, self._devices)
        self._models = parallel.replicate((classifier, generator), self._devices)
        self._idle_meter = _IdleMeter()
        self._compiled: tuple[Any, Any] | None = None

        mapped = functools.partial(parallel.map_over_devices, devices=self._devices)
        # Gives the problem back, so that its image crosses to its device once and stays there.
        self._begin = {
            objective: mapped(
                functools.partial(_begin, objective=objective, settings=settings),
                num_mapped=3,
                num_shared=1,
            )
            for objective in objectives
        }
        self._name_target = mapped(_name_target, num_mapped=2, num_shared=1)
        self._advance = mapped(
            functools.partial(advance, settings=settings, num_steps=self._steps_per_call),
            num_mapped=2,
            num_shared=2,
        )
        self._finish = mapped(
            functools.partial(finish, settings=settings), num_mapped=2, num_shared=2
        )

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
        blank = Images(np.zeros((1, *self._shape), np.uint8), np.zeros(1, int), np.zeros(1, int))
        begin = next(iter(self._begin.values()))
        problem, state = begin(*self._shard(blank), self._key)
        # At once: Python traces the second program while XLA, on another core, compiles the first.
        with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="compile") as pool:
            longest = pool.submit(self._finish.lower(state, problem, *self._models).compile)
            advance = self._advance.lower(state, problem, *self._models).compile()
            self._compiled = (advance, longest.result())
        return max(map(_bytes_needed, self._compiled))

    def stream(
        self,
        jobs: Iterable[tuple[_Tag, Images]],
        on_progress: Callable[[str, int, float], None] = lambda objective, steps, value: None,
    ) -> Iterator[tuple[_Tag, dict[str, Explanation]]]:
        """Solves jobs one after the other; asks for the next one before it is done with the last.

        Args:
            jobs: a name of your own for each job, and its images, n >= 0.
            on_progress: told, now and then, the objective, how many steps were taken since it was
                last told, summed over the images, and the mean objective of these images, leaving
                out those that are not finite (NaN when none is).

        Yields:
            In the order of the jobs, the name and by objective an `Explanation` of numpy arrays
            with a leading axis n; no objective for a job without images.

        Raises:
            RuntimeError: nothing is compiled yet.
        """
        self._idle_meter = _IdleMeter()
        started: collections.deque[Callable[[], Any]] = collections.deque()
        for wait in self._start_programs(jobs, on_progress):
            started.append(wait)
            if len(started) > _PROGRAMS_AHEAD and (done := started.popleft()()):
                yield done
        for wait in started:
            if done := wait():
                yield done

    def _start_programs(
        self,
        jobs: Iterable[tuple[_Tag, Images]],
        on_progress: Callable[[str, int, float], None],
    ) -> Iterator[Callable[[], tuple[_Tag, dict[str, Explanation]] | None]]:
        """Starts one program after the other; yields how to wait for it, and the end of a job."""
        if self._compiled is None:
            raise RuntimeError("nothing is compiled yet; call compile first")
        advance, finish = self._compiled
        for tag, images in jobs:
            parts: dict[str, list[Explanation]] = {}
            for objective, batch in self._batches(images):
                num_rows = len(batch.pixels)
                problem, state = self._start(objective, batch)
                for call in range(1, self._num_calls + 1):
                    state = self._idle_meter.run(advance, state, problem, *self._models)
                    tell = functools.partial(on_progress, objective)
                    yield functools.partial(self._report, tell, num_rows, call, state.trace)
                explanations = self._idle_meter.run(finish, state, problem, *self._models)
                keep = parts.setdefault(objective, []).append
                yield functools.partial(self._collect, keep, num_rows, explanations)
            yield functools.partial(_join, tag, parts)

    def _batches(self, images: Images) -> Iterator[tuple[str, Images]]:
        total = len(self._devices) * self._rows_per_device
        for objective in self._begin:
            yield from ((objective, batch) for batch in parallel.slices(images, total))

    def _start(self, objective: str, images: Images) -> tuple[Problem, State]:
        pixels, targets, identities = self._shard(images)
        if (images.targets < 0).any():
            targets = self._name_target(pixels, targets, self._models[0])
        problem, state = self._begin[objective](pixels, targets, identities, self._key)
        return problem, state

    def _shard(self, images: Images) -> Images:
        pixels, *others = images
        typed = Images(pixels, *map(np.asarray, others, (np.int32, np.uint32)))
        return parallel.shard(typed, len(self._devices), self._rows_per_device)

    def _report(
        self, tell: Callable[[int, float], None], num_rows: int, call: int, trace: jax.Array
    ) -> None:
        latest = parallel.unshard(trace, num_rows)[:, call * self._steps_per_call - 1]
        self._idle_meter.look()
        finite = latest[np.isfinite(latest)]
        tell(num_rows * self._steps_per_call, float(finite.mean()) if finite.size else math.nan)

    def _collect(
        self, keep: Callable[[Explanation], None], num_rows: int, explanations: Explanation
    ) -> None:
        keep(parallel.unshard(explanations, num_rows))
        self._idle_meter.look()


def _begin(
    pixels: jax.Array,
    target: jax.Array,
    identity: jax.Array,
    key: jax.Array,
    *,
    objective: str,
    settings: Settings,
) -> tuple[Problem, State]:
    key = jax.random.fold_in(key, identity)
    return make_problem(key, to_floats(pixels), target, objective), init(settings)


def _name_target(pixels: jax.Array, target: jax.Array, classifier: Classifier) -> jax.Array:
    logits = classifier.apply(classifier.params, to_floats(pixels)[None])[0]
    return resolve(logits, target)


class _IdleMeter:
    """Bounds from above how long the devices had nothing to do, from what the host can see.

    A program that is found done when the next one is started may have been done since the host last
    saw it at work.
    """

    def __init__(self) -> None:
        self._newest: Any = None
        self._first = self._seen_at_work = self._last = time.monotonic()
        self._idle = 0.0

    @property
    def idle_share(self) -> float:
        return self._idle / max(self._last - self._first, 1e-9)

    def run(self, program: Callable[..., Any], *arguments: Any) -> Any:
        """Starts a program."""
        now = time.monotonic()
        if self._newest is None:
            self._first = now
        elif self._newest.is_ready():
            self._idle += now - self._seen_at_work
        result = program(*arguments)
        self._newest = jax.tree.leaves(result)[0]
        self._seen_at_work = self._last = time.monotonic()
        return result

    def look(self) -> None:
        """Looks whether the newest program is still at work."""
        self._last = time.monotonic()
        if self._newest is not None and not self._newest.is_ready():
            self._seen_at_work = self._last


def _join(tag: _Tag, parts: dict[str, list[Explanation]]) -> tuple[_Tag, dict[str, Explanation]]:
    return tag, {
        objective: jax.tree.map(lambda *rows: np.concatenate(rows), *batches)
        for objective, batches in parts.items()
    }


def _bytes_needed(program: Any) -> int:
    analysis = program.memory_analysis()
    names = ("argument", "output", "temp", "generated_code")
    return sum(getattr(analysis, f"{name}_size_in_bytes") for name in names)


def _largest_divisor(number: int, limit: int) -> int:
    """Calls of equal length need one compiled program; a remainder would need a second."""
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)

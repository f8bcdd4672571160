"""The host loop: the results of `explain`, progress, no retrace, and isolation of bad images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax import Status
from cfx_jax.data.images import to_floats
from cfx_jax.fido.batch import image_checksums
from cfx_jax.fido.settings import get_settings
from cfx_jax.runs.jobs import Images
from cfx_jax.runs.solver import Solver

KEY = jax.random.key(0)
CUT = {"mask_size": 6, "num_steps": 40}
TARGETS = np.asarray([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1])
traced = []  # one entry each time JAX traces the classifier


def linear_apply(params, images):
    """Three classes; not a number for an image that is broken: its upper left pixel is white."""
    traced.append(images.shape)
    logits = images.reshape(len(images), -1) @ params
    return jnp.where(images[:, 0, 0] == 1.0, jnp.nan, logits)


def fill(params, images, mask, key):
    """Fills with grey, but does not change a broken image."""
    return jnp.where(images[:, :1, :1] == 1.0, images, 0.45)


@pytest.fixture(scope="module")
def models():
    params = jax.random.normal(jax.random.key(1), (36, 3))
    classifier = cfx_jax.Classifier(params=params, apply=linear_apply)
    return classifier, cfx_jax.Generator(params=(), apply=fill)


@pytest.fixture(scope="module")  # Compiling takes most of the time of this module.
def solver(models):
    """One image a device, on all eight devices."""
    return make_solver(models, get_settings("fast", **CUT))


@pytest.fixture(scope="module")
def images():
    pixels = np.random.default_rng(2).integers(0, 255, (11, 6, 6, 1), dtype=np.uint8)
    return Images(pixels, TARGETS, np.asarray(image_checksums(to_floats(pixels))))


def make_solver(models, settings, objectives=("sdr",), batch_size=1, num_devices=8):
    devices = jax.local_devices()[:num_devices]
    solver = Solver(KEY, *models, settings, objectives, (6, 6, 1), devices)
    solver.compile(batch_size)
    return solver


def first(images, n):
    return jax.tree.map(lambda array: array[:n], images)


def solve(solver, images, **options):
    [(name, results)] = solver.stream([("job", images)], **options)
    assert name == "job"
    return results["sdr"]


def assert_progress(reports, result, num_rows_of_last_batch):
    """Checks that the steps of all rows are reported, none of padding, and the last objective."""
    assert {objective for objective, _, _ in reports} == {"sdr"}
    assert sum(steps for _, steps, _ in reports) == result.trace.size
    assert np.isfinite(result.trace).all()
    last = result.trace[-num_rows_of_last_batch:, -1].mean()
    assert reports[-1][2] == pytest.approx(last)


def test_solver_equals_explain(solver, models, images):
    expected = cfx_jax.explain(
        KEY, *models, to_floats(images.pixels), TARGETS, objective="sdr", mode="fast", **CUT
    )
    found = solve(solver, images)
    assert np.ptp(found.keep_prob) > 0.5, "something was learnt"
    for leaf, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(leaf, np.ndarray)
        assert leaf.dtype == wanted.dtype
        np.testing.assert_allclose(leaf, wanted, atol=1e-4)


def test_solver_negative_target_takes_the_predicted_class(solver, images):
    found = solve(solver, images._replace(targets=np.where(TARGETS == 1, -1, TARGETS)))
    np.testing.assert_array_equal(found.target, np.where(TARGETS == 1, found.prediction, TARGETS))
    assert (found.prediction != 1).any(), "the prediction is not the label by chance"


def test_solver_stream_returns_jobs_in_order_as_if_alone(models, images):
    solver = make_solver(models, get_settings("fast", mask_size=6, num_steps=3), ["ssr", "sdr"])
    parts = {"nothing": slice(0, 0), "nine": slice(9), "one": slice(9, 10), "last": slice(10, 11)}
    jobs = [
        (name, jax.tree.map(lambda array, part=part: array[part], images))
        for name, part in parts.items()
    ]
    found = list(solver.stream(jobs))
    assert [name for name, _ in found] == list(parts)
    assert found[0][1] == {}
    for job, (_, results) in list(zip(jobs, found, strict=True))[1:]:
        assert list(results) == ["ssr", "sdr"]
        [(_, alone)] = solver.stream([job])
        for leaf, wanted in zip(jax.tree.leaves(results), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(leaf, wanted)
    assert np.abs(found[1][1]["ssr"].keep_prob - found[1][1]["sdr"].keep_prob).max() > 0.1


def test_solver_stream_starts_the_next_job_before_yielding(solver, images):
    events = []

    def jobs():
        for name in ("a", "b", "c"):
            events.append(f"{name} taken")
            yield name, first(images, 8)  # All places.

    for name, _ in solver.stream(jobs(), lambda *_: None):
        events.append(f"{name} done")
    assert events == ["a taken", "b taken", "a done", "c taken", "b done", "c done"]
    assert 0 <= solver.idle_share < 1


@pytest.mark.parametrize(("n", "num_rows_of_last_batch"), [(1, 1), (8, 8), (11, 3)])
def test_solver_progress_adds_up(n, num_rows_of_last_batch, solver, images):
    reports = []
    result = solve(solver, first(images, n), on_progress=lambda *progress: reports.append(progress))
    assert len(result.trace) == n
    assert_progress(reports, result, num_rows_of_last_batch)


def test_solver_progress_adds_up_for_a_prime_number_of_steps(models, images):
    traced.clear()
    settings = get_settings("bbmp", mask_size=6, num_steps=97)
    solver = make_solver(models, settings, batch_size=2, num_devices=2)
    reports = []
    result = solve(solver, first(images, 5), on_progress=lambda *progress: reports.append(progress))
    assert result.trace.shape == (5, 97)
    assert_progress(reports, result, num_rows_of_last_batch=1)
    assert 0 < len(traced) < 8, "traced once a program, not once a step, call or batch"


def test_solver_does_not_retrace_between_batches(solver, images):
    solve(solver, first(images, 5)._replace(targets=np.full(5, -1)))
    traced.clear()
    for n in (5, 1, 8, 11):
        solve(solver, first(images, n)._replace(targets=np.full(n, -1)))
    assert not traced


def test_solver_broken_image_does_not_affect_others_or_progress(solver, images):
    images = first(images, 5)
    expected = solve(solver, images)
    objectives = []
    pixels = images.pixels.copy()
    pixels[2, 0, 0, 0] = 255
    found = solve(
        solver,
        images._replace(pixels=pixels),
        on_progress=lambda _, steps, objective: objectives.append(objective),
    )
    assert found.status[2] == Status.NON_FINITE
    sound = [0, 1, 3, 4]
    for leaf, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(leaf[sound], wanted[sound])
    np.testing.assert_allclose(objectives, expected.trace[sound, 4::5].mean(axis=0), rtol=1e-5)


def test_solver_accepts_a_batch_of_broken_images(solver, images):
    objectives = []
    broken = first(images, 2)._replace(pixels=np.full_like(images.pixels[:2], 255))
    result = solve(
        solver, broken, on_progress=lambda _, steps, objective: objectives.append(objective)
    )
    assert (result.status == Status.NON_FINITE).all()
    assert np.isnan(objectives).all()


def test_solver_results_do_not_depend_on_batch_size(models, images):
    settings = get_settings("fast", mask_size=6, num_steps=5)
    solver = make_solver(models, settings, num_devices=1)
    expected = solve(solver, images)
    small, large = solver.compile(1), solver.compile(64)
    assert large > 8 * small > 0
    assert (solver.per_device_batch_size, solver.num_devices) == (64, 1)
    np.testing.assert_allclose(solve(solver, images).keep_prob, expected.keep_prob, atol=1e-5)


def test_solver_refuses_scaled_images(solver, images):
    with pytest.raises(ValueError, match="pixels are float32; expected uint8"):
        solve(solver, images._replace(pixels=to_floats(images.pixels)))


def test_solver_refuses_streaming_before_compiling(models, images):
    solver = Solver(KEY, *models, get_settings("fast", **CUT), ["sdr"], (6, 6, 1))
    with pytest.raises(RuntimeError, match="call compile first"):
        solve(solver, images)


@pytest.fixture(scope="module")
def patient(models):
    """Two images per device, on two devices, which take no more steps than they need."""
    settings = get_settings("fast", mask_size=6, num_steps=60, patience=5)
    return make_solver(models, settings, ["ssr", "sdr"], batch_size=2, num_devices=2)


def stream_both(solver, images, **options):
    [(_, results)] = solver.stream([("job", images)], **options)
    return results


def test_solver_spends_no_steps_on_finished_images(patient, models, images):
    """Each image stops by its own trace, as in `explain`, which has all images at once."""
    expected = cfx_jax.explain_both(
        KEY,
        *models,
        to_floats(images.pixels),
        TARGETS,
        mode="fast",
        mask_size=6,
        num_steps=60,
        patience=5,
    )
    found = stream_both(patient, images)
    taken = np.concatenate([found[name].steps for name in ("ssr", "sdr")])
    assert len(set(taken.tolist())) > 2, "images stop at different steps"
    assert taken.min() < 60
    for name, result in found.items():
        np.testing.assert_array_equal(result.steps, expected[name].steps)
        np.testing.assert_allclose(result.keep_prob, expected[name].keep_prob, atol=1e-4)
        for trace, steps in zip(result.trace, result.steps, strict=True):
            assert (trace[:steps] != 0).all()
            assert not trace[steps:].any()


def test_solver_early_stop_does_not_depend_on_the_batch(patient, images):
    together = stream_both(patient, images)
    order = np.random.default_rng(3).permutation(len(TARGETS))
    mixed = stream_both(patient, jax.tree.map(lambda array: array[order], images))
    alone = stream_both(patient, jax.tree.map(lambda array: array[4:5], images))
    for name, result in together.items():
        for leaf, other in zip(*map(jax.tree.leaves, (result, mixed[name])), strict=True):
            np.testing.assert_array_equal(leaf[order], other)
        for leaf, other in zip(*map(jax.tree.leaves, (result, alone[name])), strict=True):
            np.testing.assert_array_equal(leaf[4:5], other)


def test_solver_progress_counts_spared_steps(patient, images):
    reports = []
    stream_both(patient, images, on_progress=lambda *progress: reports.append(progress))
    for name in ("ssr", "sdr"):
        assert sum(steps for objective, steps, _ in reports if objective == name) == 11 * 60


def test_solver_refills_finished_slots_without_retracing(patient, images, monkeypatch):
    stream_both(patient, images)
    traced.clear()
    calls = []
    start = patient._call
    monkeypatch.setattr(patient, "_call", lambda pool: calls.append(start(pool)) or calls[-1])
    found = stream_both(patient, images)
    assert not traced
    places, steps_per_call = 4, 5
    needed = sum(int(result.steps.sum()) for result in found.values()) / places / steps_per_call
    in_batches = 2 * -(-len(TARGETS) // places) * 60 / steps_per_call
    # More than needed: an end is seen one call later, and the last images do not fill all places.
    assert needed < len([call for call in calls if call]) < 0.9 * in_batches

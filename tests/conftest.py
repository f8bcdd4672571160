"""Strict settings and small models with known answers, shared by all tests."""

import atexit
import dataclasses
import importlib
import os
import pathlib
import shutil
import tempfile
from importlib.metadata import version

# Before JAX starts: several CPU devices on one machine, as a pod would have, and programs compiled
# for a short life, since nearly all of the time of the tests is compilation. Without emitters of
# fusions JAX 0.10 compiles twice as fast; newer ones know no such option.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10.")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cfx_jax
from cfx_jax.config import Config, ExplainConfig, ReportConfig
from cfx_jax.fido.settings import get_settings
from cfx_jax.records import RecordWriter, encode_ids
from cfx_jax.runs.explanations import SCALARS, make_fields

TESTS = pathlib.Path(__file__).parent
jax.config.update("jax_numpy_rank_promotion", "allow")
# Each process of the tests compiles a program once, however many modules use it; and where
# JAX_COMPILATION_CACHE_DIR is set, once for all the times that the tests run. The processes do not
# share a folder, since JAX may read a program while another process is still writing it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
WORKER = os.getenv("PYTEST_XDIST_WORKER", "gw0")
jax.config.update(
    "jax_compilation_cache_dir", f"{os.environ['JAX_COMPILATION_CACHE_DIR']}/{WORKER}"
)


# Files that take longest, in CPU time: begun first, they leave no process to wait for them.
LONGEST = [
    "runs/test_pod.py", "runs/test_disturbances.py", "report/test_browser.py", "test_examples.py",
    "test_docs.py", "test_site.py", "runs/test_slurm.py", "fido/test_api.py", "runs/test_runner.py",
    "test_api.py", "runs/test_long_run.py", "evaluate/test_evaluation.py", "test_architecture.py",
    "generators/test_gated_unet.py", "train/test_masks.py", "baselines/test_baselines.py",
    "classifiers/test_variants.py", "runs/test_solver.py", "fido/test_precision.py",
    "generators/test_infilling.py", "fido/test_noise.py",
]  # fmt: skip


def pytest_collection_modifyitems(items):
    """Puts the files that take longest first; the order is the same in all processes."""
    rank = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_make_parametrize_id(val, argname):
    """Names a test after the argument, not after its bytes, which may hold the time of day.

    The processes that share the tests out must all have collected the same names.
    """
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Frees the compiled programs of a module of tests.

    Each takes several memory maps, and a process that has more than 65,530 of them crashes.
    """
    yield
    jax.clear_caches()


def linear_apply(params, images):
    """Logits `[N, K]` of a linear classifier over all pixels and channels."""
    return images.reshape(len(images), -1) @ params


def constant_fill(params, images, mask, key):
    """Fills with one value, the generator's only parameter."""
    return jnp.full_like(images, params)


@pytest.fixture
def linear_classifier():
    """Makes the two-class classifier with logits `[0, sum(weights * images)]`."""

    def make(weights):
        flat = np.asarray(weights, np.float32).reshape(-1)
        return cfx_jax.Classifier(
            params=jnp.stack([jnp.zeros_like(flat), flat], axis=1), apply=linear_apply
        )

    return make


@pytest.fixture
def fill_half():
    """Fills every hole with 0.5."""
    return cfx_jax.Generator(params=jnp.asarray(0.5), apply=constant_fill, name="half")


@pytest.fixture(scope="session")
def random_classifier():
    """A smooth five-class network on 16 x 16 RGB images, fixed random weights."""
    keys = jax.random.split(jax.random.key(7), 2)
    params = {
        "filters": jax.random.normal(keys[0], (5, 5, 3, 12)),
        "readout": jax.random.normal(keys[1], (12, 5)),
    }
    return cfx_jax.Classifier(params=params, apply=convolutional_apply, name="random")


def convolutional_apply(params, images):
    """One strided convolution, tanh, mean, linear."""
    hidden = jax.lax.conv_general_dilated(
        images - 0.5, params["filters"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return 8.0 * jnp.tanh(hidden).mean((1, 2)) @ params["readout"]


@pytest.fixture
def images():
    """Five smooth random 16 x 16 RGB images in [0, 1]."""
    small = jax.random.uniform(jax.random.key(3), (5, 4, 4, 3))
    return jnp.clip(jax.image.resize(small, (5, 16, 16, 3), "linear"), 0.0, 1.0)


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    """Keras on JAX; it reads its backend, and writes a file of settings, when first imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "jax")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        yield importlib.import_module("keras")


@pytest.fixture(scope="session")
def prepare_tfds():
    """Prepares a TFDS dataset in array_record files, of `splits`: split -> key -> example."""

    def prepare(folder, dataset, features, splits, **options):
        import tensorflow_datasets as tfds

        # Not registered, so it is opened by its files, as for users, and may be prepared again.
        with tfds.core.registered.skip_registration():

            class Dataset(tfds.core.GeneratorBasedBuilder):
                """The given examples."""

                name = dataset
                VERSION = tfds.core.Version("1.0.0")

                def _info(self):
                    described = tfds.features.FeaturesDict(features)
                    return tfds.core.DatasetInfo(builder=self, features=described, **options)

                def _split_generators(self, dl_manager):
                    return {split: self._generate_examples(split) for split in splits}

                def _generate_examples(self, split):
                    yield from splits[split].items()

        Dataset(data_dir=folder, file_format="array_record").download_and_prepare()
        return folder

    return prepare


# A small run with known records, to be read, checked and exported.
STATUS_NAMES = ["ok", "misclassified", "not_flipped", "not_preserved", "non_finite", "unreadable"]
IDS = ["a.png", "deep/../b c.png", "café ☕.png", "=1+1", "e" * 150]
STATUSES = {"ssr": [0, 1, 5, 4, 0], "sdr": [0, 2, 5, 0, 3]}
MANIFEST = {
    "objectives": ["ssr", "sdr"],
    "status_names": STATUS_NAMES,
    "class_names": ["cat", "dog", "cup, with a comma"],
    "settings": dataclasses.asdict(get_settings("fast", num_steps=3, mask_size=2))
    | {"relaxation": "concrete"},
}


def values(start, stop, fields, ids, statuses):
    """Content known from the index of an example."""
    index = np.arange(start, stop)
    found = {f.name: np.zeros((stop - start, *f.shape), f.dtype) for f in fields}
    found |= {
        "id": encode_ids(ids[start:stop], 160),
        "label": (index % 4 - 1).astype(np.int32),
        "target": (index % 3).astype(np.int32),
        "prediction": (index % 2).astype(np.int32),
    }
    if "image" in found:
        found["image"][:] = 255
    for objective, codes in statuses.items():
        code = np.asarray(codes[start:stop], np.int8)
        found[f"{objective}_status"] = code
        found[f"{objective}_mask_logits"][:] = [[-9, 9], [0, 0]]
        found[f"{objective}_kept_area"][:] = index / 8
        for name in ("mask_logits", "trace", *SCALARS):
            found[f"{objective}_{name}"][code == 5] = np.nan
    return found


@pytest.fixture
def make_run(tmp_path):
    """Writes a run with two examples a unit; returns its folder."""

    def make(units=(0, 1, 2), pictures=True, ids=IDS, statuses=STATUSES, **changes):
        explain = ExplainConfig(mask_size=2, num_steps=3)
        config = Config(explain=explain, report=ReportConfig(pictures))
        fields = make_fields(config, ["e" * 160], (8, 8))
        manifest = MANIFEST | changes
        with RecordWriter(tmp_path / "run", manifest, fields, 5, unit_size=2, ids=ids) as writer:
            for unit in units:
                writer.write_unit(unit, values(*writer.unit_range(unit), fields, ids, statuses))
        return tmp_path / "run"

    return make

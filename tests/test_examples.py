"""User-defined models in the commands: the files of `examples/`, and invalid functions."""

import dataclasses
import importlib
import json
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from PIL import Image
from skimage import data as photographs

import cfx_jax
from cfx_jax import adapters, registry
from cfx_jax.adapters import named
from cfx_jax.config import (
    BatchConfig,
    ClassifierConfig,
    Config,
    ConfigError,
    DataConfig,
    ExplainConfig,
    GeneratorConfig,
)
from cfx_jax.evaluate.config import EvaluateConfig
from cfx_jax.evaluate.evaluation import evaluate
from cfx_jax.records import ManifestMismatchError, RecordReader
from cfx_jax.runs import runner

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
LIBRARIES = ("function", "linen", "nnx", "keras", "equinox")
SIZE = 32
KERAS_SIZE = 64  # That of the network of `examples/keras_model.py`.


pytestmark = pytest.mark.usefixtures("keras")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photographs"), SIZE)


def make_folder(root, size):
    """Three photographs, for which nothing has to be resized."""
    for name in ("chelsea", "coffee", "rocket"):
        image = Image.fromarray(getattr(photographs, name)()).resize((size, size))
        image.save(root / f"{name}.png")
    return root


def config(folder, name, image_size=SIZE, **classifier):
    return Config(
        data=DataConfig(source="folder", path=str(folder), resize="stretch"),
        classifier=ClassifierConfig(name, image_size=image_size, **classifier),
        generator=GeneratorConfig("blur"),
        explain=ExplainConfig(mode="fast", num_steps=4, num_samples=2, mask_size=8),
        batch=BatchConfig(per_device_batch_size=1, unit_size=2),
    )


def load(classifier):
    return registry.load_models(Config(classifier=classifier, generator=GeneratorConfig("grey")))


def example(library):
    return f"{EXAMPLES}/{library}_model.py:build"


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_run_explains_the_model_of_an_adapter(library, folder, tmp_path):
    size = SIZE
    if library == "keras":
        size, folder = KERAS_SIZE, make_folder(tmp_path, KERAS_SIZE)
    runner.run(config(folder, example(library), size), tmp_path / "run")
    reader = RecordReader(tmp_path / "run")
    assert reader.complete.all()
    model = named.build(example(library))
    known = adapters.Known(image_size=(size, size))
    classifier = adapters.as_classifier(model, known, name=example(library))
    own_config = dataclasses.replace(
        config(folder, "given", size), classifier=ClassifierConfig("given")
    )
    cfx_jax.run(own_config, tmp_path / "python", classifier=classifier)
    given = RecordReader(tmp_path / "python")
    for objective in ("ssr", "sdr"):
        found, expected = (r.read(f"{objective}_mask_logits") for r in (reader, given))
        np.testing.assert_allclose(found, expected, rtol=2**-10, atol=1e-3)
        assert np.ptp(found.astype(float)) > 0.05, "something was learnt"
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]) / 255
    logits = classifier.apply(classifier.params, jnp.asarray(images, jnp.float32))
    np.testing.assert_array_equal(reader.read("prediction"), np.argmax(logits, axis=1))


def test_examples_are_short():
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert len(lengths) == 6
    assert max(lengths.values()) < 30


@pytest.mark.slow
@pytest.mark.parametrize(("library", "has_maps"), [("linen", True), ("function", False)])
def test_evaluate_finds_the_user_model_of_a_run(library, has_maps, folder, tmp_path, caplog):
    runner.run(config(folder, example(library)), tmp_path / "run")
    own_config = EvaluateConfig(
        generator=GeneratorConfig("blur"), baselines=("centre", "grad_cam"), curve_steps=2,
        sanity_images=0,
    )  # fmt: skip
    table = evaluate(own_config, tmp_path / "scores", [str(tmp_path / "run")])
    assert ("grad_cam" in table) == has_maps
    assert ("baselines: grad_cam is left out: classifier" in caplog.text) != has_maps
    found = RecordReader(tmp_path / "scores/scores/images").read("target")
    np.testing.assert_array_equal(found, RecordReader(tmp_path / "run").read("target"))


def test_run_refuses_to_resume_with_a_changed_function(folder, tmp_path):
    own = tmp_path / "own.py"
    own.write_text((EXAMPLES / "function_model.py").read_text())
    name = f"{own}:build"
    runner.run(config(folder, name), tmp_path / "run")
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert set(manifest["classifier"]) == {
        "name", "weights_digest", "crop", "interpolation", "origin"
    }  # fmt: skip
    runner.run(config(folder, name), tmp_path / "run")
    own.write_text(own.read_text() + "\n# Changed.\n")
    with pytest.raises(ManifestMismatchError, match=r"classifier\.origin"):
        runner.run(config(folder, name), tmp_path / "run")


CHANGES = {
    "its weights, closed over": "import numpy as np\ndef build(path):\n    w = np.load(path)\n",
    "an array it reads": "import numpy as np\ndef build(path):\n    w = np.load(OTHER)\n",
    "what it imports": "from helper_{} import w\ndef build(path):\n",
}


@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.parametrize("kind", ["classifier", "generator"])
def test_identity_changes_with_the_parts_of_a_user_model(case, kind, tmp_path):
    weights, other = tmp_path / "w.npy", tmp_path / "other.npy"
    number = f"{list(CHANGES).index(case)}_{kind}"
    helper = tmp_path / f"helper_{number}.py"
    use = {
        "classifier": "    return lambda images: images.mean((1, 2)) * w\n",
        "generator": "    return lambda images, masks, key: images * w\n",
    }[kind]
    text = CHANGES[case].format(number).replace("OTHER", repr(str(other)))
    own = tmp_path / f"own_{number}.py"
    own.write_text(text + use)
    found = []
    for value in (1.0, 1.0, 2.0):
        for path in (weights, other):
            np.save(path, np.full(3, value, np.float32))
        helper.write_text(f"import numpy as np\nw = np.full(3, {value}, np.float32)\n")
        for name in [*sys.modules]:
            if name.startswith((f"helper_{number}", "cfx_jax_named_")):
                del sys.modules[name]
        importlib.invalidate_caches()
        loader = cfx_jax.load_classifier if kind == "classifier" else cfx_jax.load_generator
        found.append(registry.identity(loader(f"{own}:build", weights))["origin"])
    assert found[0] == found[1]
    assert found[1] != found[2]


def test_user_model_function_gets_the_weights_path(tmp_path):
    own = tmp_path / "with_weights.py"
    own.write_text(
        "import jax.numpy as jnp\n"
        "def build(path):\n"
        "    return lambda images: images.mean((1, 2)) * len(path)\n"
    )
    own_config = ClassifierConfig(f"{own}:build", weights="12345", image_size=8)
    classifier, _ = registry.load_models(
        Config(classifier=own_config, generator=GeneratorConfig("grey"))
    )
    logits = classifier.apply(classifier.params, jnp.ones((1, 8, 8, 3)))
    np.testing.assert_allclose(logits, 5.0)
    with pytest.raises(ConfigError, match=r"with no argument, but: missing .*weights=FILE"):
        registry.load_models(Config(classifier=ClassifierConfig(f"{own}:build")))


def test_user_model_may_be_a_generator(tmp_path):
    own = tmp_path / "fills.py"
    own.write_text(
        "import jax.numpy as jnp\n"
        "def build():\n"
        "    return lambda images, masks, key: jnp.full_like(images, 0.25)\n"
    )
    generator = cfx_jax.load_generator(f"{own}:build")
    filled = cfx_jax.infill(
        jax.random.key(0), generator, jnp.ones((1, 4, 4, 3)), jnp.zeros((1, 4, 4, 1))
    )
    np.testing.assert_allclose(filled, 0.25)
    assert registry.identity(generator)["origin"]


def test_user_model_config_describes_images(folder, tmp_path):
    """Mean and standard deviation reach the function; channels and size reach the loader."""
    own = tmp_path / "mean.py"
    own.write_text("def build():\n    return lambda images: images.mean((1, 2))\n")
    seen = ClassifierConfig(
        f"{own}:build", image_size=12, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0), logits="sigmoid"
    )
    classifier, _ = load(seen)
    logits = classifier.apply(classifier.params, jnp.ones((1, 12, 12, 3)))
    np.testing.assert_allclose(logits, [[1.0, 0.75, 0.5]])
    assert (classifier.image_size, classifier.logits) == ((12, 12), "sigmoid")


BROKEN = {
    "does_not_import": ("import nothing_of_this_name", "cannot be run: ModuleNotFoundError"),
    "not_there": ("def other(): pass", "has no 'build'; it has other"),
    "no_function": ("build = 3", "is a int; expected a function that returns a model"),
    "returns_nothing": ("def build(): pass", "returns None; expected a model"),
    "returns_text": (
        "def build(): return 'model'",
        "a str is not a supported model; exp",
    ),
    "raises": (
        "def build(): raise OSError('no weights\\nhere')",
        "raises OSError: no weights h",
    ),
    "exits": ("def build(): raise SystemExit('no GPU')", "raises SystemExit: no GPU"),
    "exits_at_once": ("import sys\nsys.exit(3)", "cannot be run: SystemExit: 3"),
    "is_async": ("async def build(): return 1", "is defined with `async def`; expected a"),
    "yields_async": ("async def build(): yield 1", "is defined with `async def`; expected a"),
    "yields": ("def build(): yield 1", "a generator is not a supported model"),
    "arguments": ("def build(depth, width): pass", "no argument, but: missing a required"),
    "no_arrays": (
        "def build(): return (lambda p, x: x), {'a': ['text']}",
        r"params\['a'\]\[0\] is a str; expected arrays",
    ),
    "no_numbers": (
        "import numpy\ndef build(): return (lambda p, x: x), {'a': numpy.array(['text'])}",
        r"params\['a'\] is an array of <U4; expected numbers",
    ),
    "mixed_keys": (
        "def build(): return (lambda p, x: x), {'a': 1.0, 2: 2.0}",
        "params is not a tree of arrays",
    ),
    "no_variables": (
        "import flax.linen as nn\ndef build(): return nn.Dense(3)",
        "is a Flax Linen module without its variables; expected",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_user_model_names_a_function_that_builds_no_model(case, tmp_path):
    text, message = BROKEN[case]
    own = tmp_path / f"{case}.py"
    own.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(ClassifierConfig(f"{own}:build"))
    assert "\n" not in str(caught.value)


MODELS = {
    "other_size": (
        "images.reshape(len(images), -1) @ jnp.ones((100, 3))",
        "raises TypeError: dot",
    ),
    "key": ("{}['logits']", "raises KeyError: 'logits' for images"),
    "numpy": ("np.asarray(images).mean((1, 2))", "raises TracerArrayConversionError: "),
    "value": ("images.reshape(7, 7)", "raises TypeError: cannot reshape"),
    "own": ("int('no\\nnumber')", r"raises ValueError: invalid literal .* for images \(2, 32, 32"),
    "text": ("'logits'", "raises (AttributeError|TypeError): .*'?str'?"),
    "one_image": ("images.reshape(1, 16, 16, 3).mean((1, 2))", "raises TypeError: cannot resh"),
}


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("kind", ["classifier", "generator"])
def test_user_model_that_fails_when_called_is_named(kind, case, folder, tmp_path):
    text, message = MODELS[case]
    own = tmp_path / f"{case}.py"
    takes = "images" if kind == "classifier" else "images, masks, key"
    own.write_text(
        "import jax.numpy as jnp\nimport numpy as np\n"
        f"def build(): return lambda {takes}: {text}\n"
        "def fine(): return lambda images: images.mean((1, 2))\n"
    )
    own_config = config(folder, f"{own}:build")
    if kind == "generator":
        own_config.classifier.name, own_config.generator = (
            f"{own}:fine",
            GeneratorConfig(f"{own}:build"),
        )
    with pytest.raises(ConfigError, match=message) as caught:
        runner.run(own_config, tmp_path / "run")
    assert f"{own}:build" in str(caught.value)
    assert "\n" not in str(caught.value)


UNLEARNT = {
    "loop": (
        "jax.lax.while_loop(lambda x: x.sum() < 0, lambda x: x, images).mean((1, 2))",
        r"raises ValueError: Reverse-mode .* when its gradient is taken for images \(2, 1, 32, 32",
    ),
    "callback": (
        "jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(images.shape, 'f4'), images)"
        ".mean((1, 2))",
        "raises ValueError: Pure callbacks do not support JVP.* when its gradient is taken",
    ),
    "at_most_two": (
        "images[:, 0, 0] if len(images) <= 2 else int('other')",
        r"raises ValueError: invalid literal .* when its gradient is taken for images \(2, 3, 32",
    ),
    "only_two": (
        "images[:, 0, 0] if len(images) == 2 else int('other')",
        r"raises ValueError: invalid literal .* for images \(1, 32",
    ),
}


@pytest.mark.parametrize("case", UNLEARNT)
def test_user_model_without_gradient_or_batches_is_named(case, folder, tmp_path):
    text, message = UNLEARNT[case]
    own = tmp_path / f"{case}.py"
    own.write_text(f"import jax\ndef build(): return lambda images: {text}\n")
    own_config = config(folder, f"{own}:build")
    own_config.explain.num_samples = 3
    with pytest.raises(ConfigError, match=message) as caught:
        runner.run(own_config, tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "classifier", "message"),
    [
        ({"image_size": 64}, "given", r"classifier\.image_size is for the classifier that the con"),
        (
            {"logits": "sigmoid"},
            "given",
            "another is given; change that one, as in",
        ),
        ({}, "good.py:build", "classifier is a str; expected a cfx_jax.Classifier, see cfx_jax.ad"),
    ],
)
def test_run_refuses_config_fields_unused_by_a_given_classifier(
    section, classifier, message, folder, tmp_path
):
    if classifier == "given":
        classifier = cfx_jax.Classifier((), lambda p, x: x.mean((1, 2)), image_size=(64, 64))
    own_config = dataclasses.replace(
        config(folder, "x"), classifier=ClassifierConfig("x", **section)
    )
    with pytest.raises(ConfigError, match=message):
        cfx_jax.run(own_config, tmp_path / "run", classifier=classifier)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (ClassifierConfig(example("linen")), "has no image size to resize images to; set it"),
        (
            ClassifierConfig("x", mean=(0.5,)),
            r"mean is \(0.5,\) and classifier.std \(\)",
        ),
        (ClassifierConfig("x", mean=(0.5,), std=(0.0,)), "std above 0"),
        (ClassifierConfig("mnist_cnn", mean=(0.5,) * 3, std=(1.0,) * 3), "have 1 channels; expec"),
        (ClassifierConfig("x", mean=(0.5,), std=(1.0,), normalization="none"), "are both given"),
        (ClassifierConfig("x", logits="logits"), "classifier.logits is 'logits'; expected one of"),
        (ClassifierConfig("x", channels=4), "classifier.channels is 4; expected 3 or 1"),
        (
            ClassifierConfig("x", image_size=0),
            "classifier.image_size is 0; expected a wh",
        ),
        (ClassifierConfig("no/such.py:build"), "there is no file"),
        (ClassifierConfig("no_such_module:build"), "no_such_module cannot be imported"),
        (
            ClassifierConfig("no_such_module:"),
            "is not the name of a function; expected package",
        ),
    ],
)
def test_run_refuses_a_user_model_that_cannot_be_built(classifier, message, folder, tmp_path):
    own_config = config(folder, "")
    own_config.classifier = classifier
    with pytest.raises(ConfigError, match=message):
        runner.run(own_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


BARE = """
import jax.numpy as jnp

def build():
    return colours

def colours(images):
    n = len(images)
    return 9 * images[:, ::4, ::4].reshape(n, 4, 2, 4, 2, 3).mean((2, 4)).reshape(n, -1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("has_params", [True, False])
def test_pod_killed_resumes_with_a_user_model(has_params, folder, tmp_path):
    name = "examples/linen_model.py:build"
    if not has_params:
        (tmp_path / "bare.py").write_text(BARE)
        name = f"{tmp_path}/bare.py:build"
    command = [
        sys.executable, "launch/local_pod.py", "--num_processes=2", "--devices_per_process=2", "--",
        f"--workdir={tmp_path}/run", "--config.data.source=folder", f"--config.data.path={folder}",
        f"--config.classifier.name={name}",
        f"--config.classifier.image_size={SIZE}", "--config.generator.name=blur",
        "--config.explain.num_steps=4", "--config.explain.mask_size=8",
    ]  # fmt: skip
    root = EXAMPLES.parent
    first = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    complete = tmp_path / "run/records.zarr/complete/c"
    while not list(complete.glob("*")) and first.poll() is None:
        time.sleep(0.01)
    # The other process and the launcher end with it.
    for child in psutil.Process(first.pid).children()[:1]:
        child.kill()
    first.communicate(timeout=60)
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert RecordReader(tmp_path / "run").complete.all()
    assert (tmp_path / "run/report/index.html").is_file()

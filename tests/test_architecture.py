"""The shape of the house: imports go one way, pure rooms touch nothing outside."""

import ast
import pathlib
import subprocess
import sys

import pytest

import cfx_jax

PACKAGE = pathlib.Path(cfx_jax.__file__).parent

# Each room may import the rooms above it that it names; "P" stands for all pure rooms.
PURE = {
    "settings": (),
    "classifiers": (),
    "generators": ("classifiers",),
    "objective": ("classifiers", "generators", "settings"),
    "masks": ("objective",),
    "training": ("classifiers", "generators", "masks"),
    "explanation": ("classifiers", "generators", "objective", "settings"),
    "checks": ("classifiers", "generators", "settings"),
    "infilling": ("checks", "generators"),
    "precision": ("classifiers", "generators"),
    "metrics": ("classifiers", "explanation", "generators", "objective", "settings"),
    "explain": ("checks", "classifiers", "explanation", "generators", "objective", "settings"),
    "areas": ("checks", "classifiers", "explain", "generators", "metrics", "objective", "settings"),
    "baselines": (
        "areas",
        "checks",
        "classifiers",
        "explain",
        "generators",
        "objective",
        "settings",
    ),
}
ROOMS = PURE | {
    "parallel": (),
    "solver": ("P", "parallel"),
    "config": ("P",),
    "demo": ("config",),
    "images": (),
    "tfrecord": (),
    "data": ("config", "images", "tfrecord"),
    "storage": (),
    "manifest": ("storage",),
    "pictures": ("objective",),
    "records": ("manifest", "pictures", "storage"),
    "report": ("manifest", "pictures", "records", "storage"),
    "adapters": ("classifiers",),
    "weights": ("classifiers", "generators"),
    "registry": ("P", "weights"),
    "crops": ("config", "data", "images"),
    "sheets": (),
    "infill_quality": ("P",),
    "train_log": ("P", "config", "data", "infill_quality", "registry", "sheets", "storage"),
    "batch_size": ("solver",),
    "cluster": ("config",),
    "preemption": (),
    "progress": (),
    "loader": ("data", "images"),
    "fields": ("P", "config", "loader", "records"),
    "runner": ("P", "batch_size", "cfx_jax", "config", "data", "fields", "loader", "manifest",
               "precision", "preemption", "progress", "records", "registry", "report", "solver"),
    "cli": ("cluster", "config", "preemption", "records"),
    "infill_folder": ("P", "cfx_jax", "cli", "config", "data", "images", "registry",
                      "sheets"),
    "main": ("cli", "cluster", "config", "demo", "preemption", "report", "runner"),
    "train": ("P", "cfx_jax", "cli", "config", "crops", "data", "manifest", "parallel",
              "registry", "storage", "train_log", "weights"),
    "train_classifier": ("P", "cfx_jax", "cli", "config", "data", "images", "manifest", "storage",
                         "weights"),
    "evaluate_config": ("P", "config"),
    "against_controls": ("evaluate_config",),
    "scoring": ("P", "parallel"),
    "measures": ("P", "loader", "manifest", "records", "scoring"),
    "plots": (),
    "table_text": ("P",),
    "tables": ("P", "measures", "plots", "records", "storage", "table_text"),
    "evaluate": ("P", "against_controls", "cli", "cluster", "config", "data", "evaluate_config",
                 "images", "loader", "measures", "preemption", "progress", "records", "registry",
                 "runner", "scoring", "tables"),
    "cfx_jax": ("P", "registry"),
}  # fmt: skip
PURE_LIBRARIES = {"jax", "flax", "optax", "numpy", "scipy", "collections", "dataclasses", "enum",
                  "functools", "math", "typing"}  # fmt: skip
OUTSIDE = {"open", "print", "input", "exec", "eval", "breakpoint", "__import__"}


def room_of(path):
    relative = path.relative_to(PACKAGE)
    name = relative.parts[0].removesuffix(".py")
    return "cfx_jax" if name == "__init__" else name


def imported(tree):
    """Yields the full name of everything imported anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(tree):
    for name in imported(tree):
        parts = name.split(".")
        if parts[0] == "cfx_jax":
            inner = parts[1] if len(parts) > 1 else "cfx_jax"
            yield inner if inner in ROOMS else "cfx_jax"


def violations(room, source):
    """Returns what a module of a room does that the house forbids."""
    tree = ast.parse(source)
    allowed = {room, *ROOMS[room]}
    allowed |= set(PURE) if "P" in allowed else set()
    found = [f"imports {other}" for other in rooms_imported(tree) if other not in allowed]
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    if room != "parallel":
        found += ["pmap" for call in calls if getattr(call, "attr", "") == "pmap"]
    if room in PURE:
        roots = {name.split(".")[0] for name in imported(tree)} - {"cfx_jax"}
        found += [f"imports {name}" for name in sorted(roots - PURE_LIBRARIES)]
        found += [f"calls {call.id}" for call in calls if getattr(call, "id", "") in OUTSIDE]
    return found


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_keep_to_their_room(path):
    assert violations(room_of(path), path.read_text()) == []


def test_every_room_is_known():
    assert {room_of(path) for path in MODULES} == set(ROOMS)


@pytest.mark.parametrize(
    ("room", "source", "expected"),
    [
        ("objective", "from cfx_jax.explain import advance", ["imports explain"]),
        ("objective", "from cfx_jax import runner", ["imports runner"]),
        ("checks", "def f():\n    import cfx_jax.data", ["imports data"]),
        ("data", "from cfx_jax.runner import run", ["imports runner"]),
        ("settings", "import cfx_jax", ["imports cfx_jax"]),
        ("explain", "import pathlib", ["imports pathlib"]),
        ("explain", "print(1)", ["calls print"]),
        ("generators", "open('weights')", ["calls open"]),
        ("runner", "import jax\njax.pmap(f)", ["pmap"]),
        ("parallel", "import jax\njax.pmap(f)", []),
    ],
)
def test_what_the_house_forbids_is_found(room, source, expected):
    assert violations(room, source) == expected


def test_imports_have_no_cycle():
    order = list(ROOMS)
    order.remove("cfx_jax")
    order.insert(order.index("runner"), "cfx_jax")
    position = {room: index for index, room in enumerate(order)}
    for room, above in ROOMS.items():
        assert all(position[other] < position[room] for other in above if other != "P"), room


def test_main_is_short():
    assert len((PACKAGE / "main.py").read_text().splitlines()) < 70


def test_importing_the_package_pulls_in_nothing_heavy():
    code = "import cfx_jax, sys; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    roots = {name.split(".")[0] for name in modules.stdout.decode().split()}
    heavy = {"tensorflow", "tensorflow_datasets", "matplotlib", "skimage", "tqdm", "jinja2", "PIL",
             "keras", "equinox", "torch"}  # fmt: skip
    assert not heavy & roots


def test_every_module_can_be_imported_first():
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in MODULES]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    for loaded in [m for m in sys.modules if m.split('.')[0] == 'cfx_jax']:\n"
        "        del sys.modules[loaded]\n"
        "    if not name.endswith('main'):\n"
        "        importlib.import_module(name.removesuffix('.__init__'))\n"
    )
    subprocess.run([sys.executable, "-c", code, *names], check=True)

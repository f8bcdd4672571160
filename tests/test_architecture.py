"""The shape of the house: imports go one way, pure rooms touch nothing outside."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

import cfx_jax

PACKAGE = pathlib.Path(cfx_jax.__file__).parent

# From the ground up: a room imports only rooms below it. Rooms of one floor do not know each other.
FLOORS = [
    {"classifiers", "generators", "records", "version"},
    {"fido", "weights", "adapters"},
    {"metrics", "config"},
    {"baselines", "registry"},
    {"data"},
    {"runs"},
    # The package itself, which hands on what lies below it.
    {"cfx_jax"},
    {"report"},
    {"evaluate", "train"},
    # Commands: flags, then one call; `python -m cfx_jax.ROOM` too, in whichever folder it lies.
    {"main", "infill_folder", "train_classifier", "__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PURE = {"classifiers", "generators", "fido", "baselines", "metrics"}
PURE_LIBRARIES = {"jax", "flax", "optax", "numpy", "scipy", "collections", "dataclasses", "enum",
                  "functools", "math", "typing"}  # fmt: skip
OUTSIDE = {"open", "print", "input", "exec", "eval", "breakpoint", "__import__"}


def room_of(path):
    relative = path.relative_to(PACKAGE)
    if relative.name == "__main__.py":
        return "__main__"
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
            yield inner if inner in FLOOR else "cfx_jax"


def violations(room, source):
    """Returns what a module of a room does that the house forbids."""
    tree = ast.parse(source)
    below = {other for other in FLOOR if FLOOR[other] < FLOOR[room]}
    found = [f"imports {o}" for o in rooms_imported(tree) if o != room and o not in below]
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    if room != "runs":
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


def test_every_room_is_known_and_says_what_it_owns():
    assert {room_of(path) for path in MODULES} == set(FLOOR)
    for face in PACKAGE.glob("*/__init__.py"):
        first = (ast.get_docstring(ast.parse(face.read_text())) or "").partition("\n")[0]
        assert len(first) > 20, face
        assert first.endswith("."), face


@pytest.mark.parametrize(
    ("room", "source", "expected"),
    [
        ("fido", "from cfx_jax.runs.solver import Solver", ["imports runs"]),
        ("fido", "from cfx_jax import data", ["imports data"]),
        ("fido", "from cfx_jax.fido import masks", []),
        ("classifiers", "from cfx_jax.generators import Generator", ["imports generators"]),
        ("records", "from cfx_jax.fido.explanation import Status", ["imports fido"]),
        ("generators", "def f():\n    import cfx_jax.data", ["imports data"]),
        ("data", "from cfx_jax.runs.runner import run", ["imports runs"]),
        ("fido", "import cfx_jax", ["imports cfx_jax"]),
        ("metrics", "import pathlib", ["imports pathlib"]),
        ("baselines", "print(1)", ["calls print"]),
        ("generators", "open('weights')", ["calls open"]),
        ("evaluate", "import jax\njax.pmap(f)", ["pmap"]),
        ("runs", "import jax\njax.pmap(f)", []),
        ("__main__", "from cfx_jax.train.loop import train", []),
    ],
)
def test_what_the_house_forbids_is_found(room, source, expected):
    assert violations(room, source) == expected


def test_one_module_maps_over_devices():
    found = [path.name for path in MODULES if ".pmap(" in path.read_text()]
    assert found == ["parallel.py"]


@pytest.mark.parametrize(
    "folder", sorted(face.parent.name for face in PACKAGE.glob("*/__init__.py"))
)
def test_modules_of_a_room_do_not_import_in_a_circle(folder):
    graph = {}
    for path in (PACKAGE / folder).glob("*.py"):
        names = imported(ast.parse(path.read_text()))
        prefix = f"cfx_jax.{folder}."
        inner = {
            name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)
        }
        # A face only hands on, and a lazy import inside a function is an arrow all the same.
        if path.name != "__init__.py":
            graph[path.stem] = inner - {path.stem}
    graphlib.TopologicalSorter(graph).prepare()


def test_main_is_short():
    assert len((PACKAGE / "main.py").read_text().splitlines()) < 70


HEAVY = {"tensorflow", "tensorflow_datasets", "tensorboardX", "matplotlib", "skimage", "tqdm",
         "jinja2", "keras", "equinox", "torch"}  # fmt: skip


NOT_NEEDED = {"PIL", "scipy", "flax.nnx"}


@pytest.mark.parametrize(
    ("name", "heavy"),
    [
        ("cfx_jax", HEAVY | NOT_NEEDED),
        ("cfx_jax.data", HEAVY),
        ("cfx_jax.report.page", {"scipy.stats", "matplotlib"}),
    ],
)
def test_importing_the_package_pulls_in_nothing_heavy(name, heavy):
    code = f"import {name}, sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    modules = ran.stdout.decode().split()
    assert not heavy & {*modules, *(module.split(".")[0] for module in modules)}


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

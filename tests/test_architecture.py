"""The architecture: imports go one way, and pure packages have no side effects."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

import cfx_jax

PACKAGE = pathlib.Path(cfx_jax.__file__).parent

# From the bottom up: a room, which is a sub-package or a module of the package, imports only rooms
# of lower floors. Rooms of the same floor do not import each other.
FLOORS = [
    {"numerics"},
    {"classifiers", "generators", "records", "version"},
    {"fido", "weights", "adapters"},
    {"baselines", "metrics", "config"},
    {"registry", "data"},
    {"runs"},
    {"report"},
    # The package itself re-exports names of lower floors.
    {"evaluate", "train", "cfx_jax"},
    {"commands"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PURE = {"classifiers", "generators", "fido", "baselines", "metrics"}
PURE_LIBRARIES = {"jax", "flax", "optax", "numpy", "scipy", "collections", "dataclasses", "enum",
                  "functools", "math", "typing"}  # fmt: skip
OUTSIDE = {"open", "print", "input", "exec", "eval", "breakpoint", "__import__"}


def room_of(path):
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
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
# What `python -m` runs, in whichever room it lies: it hands over to the room of commands.
SHIMS = [
    path
    for path in MODULES
    if path.name == "__main__.py" or (path.parent == PACKAGE and room_of(path) not in FLOOR)
]
INSIDE = [path for path in MODULES if path not in SHIMS]


def name_of(path):
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", INSIDE, ids=name_of)
def test_architecture_imports_go_one_way(path):
    assert violations(room_of(path), path.read_text()) == []


@pytest.mark.parametrize("path", SHIMS, ids=name_of)
def test_architecture_entry_modules_only_call_a_command(path):
    docstring, imports, runs = ast.parse(path.read_text()).body
    assert isinstance(docstring.value.value, str)
    names = {"__main__": "dispatcher"}
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    assert ast.unparse(imports) == (
        f"from cfx_jax.commands.{names.get(parts[0], parts[0])} import main"
    )
    assert ast.unparse(runs) == "if __name__ == '__main__':\n    main()"


def test_architecture_no_module_imports_an_entry_module():
    shims = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in SHIMS}
    for path in INSIDE:
        names = {*imported(ast.parse(path.read_text()))}
        assert not shims & {*names, *(name.rpartition(".")[0] for name in names)}, path


def test_architecture_packages_are_listed_and_documented():
    assert {room_of(path) for path in INSIDE} == set(FLOOR)
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
        ("records", "from cfx_jax.commands.records import main", ["imports commands"]),
        ("registry", "from cfx_jax.data import open_source", ["imports data"]),
        ("commands", "from cfx_jax.train.loop import train", []),
    ],
)
def test_violations_finds_forbidden_imports(room, source, expected):
    assert violations(room, source) == expected


def exported(room):
    """Returns the names in `__all__` of a room's face."""
    for node in ast.parse((PACKAGE / room / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return ast.literal_eval(node.value)
    return []


def past_the_face(room, source):
    """Returns what a module imports from other rooms that their `__init__.py` does not export."""
    rooms = {face.parent.name for face in PACKAGE.glob("*/__init__.py")} - {room}
    names = [name.split(".")[1:] for name in imported(ast.parse(source)) if name[:7] == "cfx_jax"]
    return [
        ".".join(name)
        for name in names
        if len(name) > 1
        and name[0] in rooms
        and (len(name) > 2 or name[1] not in exported(name[0]))
    ]


@pytest.mark.parametrize("path", INSIDE, ids=name_of)
def test_architecture_imports_across_packages_use_public_names(path):
    assert past_the_face(room_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from cfx_jax.fido import Settings", []),
        ("from cfx_jax.fido.settings import Settings", ["fido.settings.Settings"]),
        ("from cfx_jax.fido import settings", ["fido.settings"]),
        ("import cfx_jax.fido.settings", ["fido.settings"]),
        ("from cfx_jax.runs import cluster", []),
        ("from cfx_jax.data import Source", []),
    ],
)
def test_past_the_face_finds_imports_of_private_names(source, expected):
    assert past_the_face("data", source) == expected


def test_architecture_only_parallel_maps_over_devices():
    found = [path.name for path in MODULES if ".pmap(" in path.read_text()]
    assert found == ["parallel.py"]


@pytest.mark.parametrize(
    "folder", sorted(face.parent.name for face in PACKAGE.glob("*/__init__.py"))
)
def test_architecture_packages_have_no_import_cycles(folder):
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


def test_architecture_main_is_short():
    assert len((PACKAGE / "commands" / "main.py").read_text().splitlines()) < 70


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
def test_import_loads_no_heavy_library(name, heavy):
    code = f"import {name}, sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    modules = ran.stdout.decode().split()
    assert not heavy & {*modules, *(module.split(".")[0] for module in modules)}


# Python imports the package before any of its modules. Each module that the package does not import
# is then imported in a separate process, which inherits the libraries imported so far.
IMPORT_FIRST = """
import importlib, os, sys

def import_package():
    for loaded in [name for name in sys.modules if name.split(".")[0] == "cfx_jax"]:
        del sys.modules[loaded]
    importlib.import_module("cfx_jax")

for name in sys.argv[1:]:
    importlib.import_module(name)
import_package()
for name in [name for name in sys.argv[1:] if name not in sys.modules]:
    child = os.fork()
    if not child:
        importlib.import_module(name)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{name} cannot be imported first")
"""


@pytest.mark.slow
def test_import_works_with_any_module_first():
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in MODULES]
    firsts = [name.removesuffix(".__init__") for name in names]
    subprocess.run([sys.executable, "-c", IMPORT_FIRST, *firsts], check=True)

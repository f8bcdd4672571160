"""Which names a pickle may ask for: kinds of data, and not what could run code.

Nothing is ever imported or called by its name, so that no list decides whether reading a file is
safe. This one decides what a user is told: a training script saves its arguments and paths, and
these are no reason to refuse a file; one that wants `os.system` was made to do harm elsewhere.
"""

import _compat_pickle
import builtins
import re
import sys

# Of the standard library, which can run anything, the kinds of values that scripts save.
_DATA = {
    "_codecs.encode",
    "argparse.Namespace",
    "array._array_reconstructor",
    "array.array",
    "copyreg._reconstructor",
    "decimal.Decimal",
    "fractions.Fraction",
    "functools.partial",
    "ipaddress.IPv4Address",
    "ipaddress.IPv6Address",
    "logging.getLogger",
    "operator.itemgetter",
    "random.Random",
    "re._compile",
    "time.struct_time",
    "types.SimpleNamespace",
    "uuid.SafeUUID",
    "uuid.UUID",
    "zoneinfo.ZoneInfo",
    "zoneinfo.ZoneInfo._unpickle",
    "builtins.Ellipsis",
    "builtins.NotImplemented",
    "builtins.getattr",
    "builtins.iter",
    *(
        f"collections.{name}"
        for name in ("ChainMap", "Counter", "OrderedDict", "UserDict", "defaultdict", "deque")
    ),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(
        f"{module}.{pure}{kind}Path"
        for module in ("pathlib", "pathlib._local")  # as of Python 3.13
        for pure in ("", "Pure")
        for kind in ("", "Posix", "Windows")
    ),
}
_DATA_MODULES = {"collections.abc", "math", "numbers", "typing"}
# Of other packages, what loads or runs files.
_LOADERS = re.compile(
    r"(torch\.(load|hub|jit|package|ops|serialization\.load|utils\.cpp_extension|distributed\.rpc)"
    r"|torch\.storage\._load_from_bytes|numpy\.(load|f2py|testing|distutils)"
    r"|pandas\.(eval|read_pickle|io)|joblib|dill|cloudpickle|IPython|pip|pkg_resources|requests"
    r"|setuptools)(\..*)?"
)


def is_data(name: str) -> bool:
    """Tells whether a dotted name is that of data, or of a class or function of somebody's own.

    The names of the standard library must be known, those of other packages must not.
    """
    module, _, attribute = name.rpartition(".")
    if re.search(r"\.__(?!main)\w+__(\.|$)", name):  # the way from an object to everything else
        return False
    if module == "builtins" and isinstance(getattr(builtins, attribute, None), type):
        return True
    if module.partition(".")[0] in sys.stdlib_module_names:
        return name in _DATA or module in _DATA_MODULES
    return not _LOADERS.fullmatch(name)


def present_name(module: str, name: str) -> str:
    """Returns the dotted name in Python 3 of what old protocols call as Python 2 did."""
    renamed = _compat_pickle.NAME_MAPPING.get((module, name))
    return ".".join(renamed or (_compat_pickle.IMPORT_MAPPING.get(module, module), name))

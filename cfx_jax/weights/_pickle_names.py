"""Names that a pickle may refer to: types of data, but nothing that could run code.

Nothing is ever imported or called by its name, so the safety of reading a file does not depend on
this list. The list decides which files are refused with a warning to the user. A training script
may save its arguments and paths, which is no reason to refuse a file, but a file that refers to
`os.system` was made to do harm.
"""

import _compat_pickle
import builtins
import re
import sys

# Types of values from the standard library that scripts save; all its other names are refused.
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
        for module in ("pathlib", "pathlib._local")  # Since Python 3.13.
        for pure in ("", "Pure")
        for kind in ("", "Posix", "Windows")
    ),
}
_DATA_MODULES = {"collections.abc", "math", "numbers", "typing"}
# Names of other packages that load or run files.
_LOADERS = re.compile(
    r"(torch\.(load|hub|jit|package|ops|serialization\.load|utils\.cpp_extension|distributed\.rpc)"
    r"|torch\.storage\._load_from_bytes|numpy\.(load|f2py|testing|distutils)"
    r"|pandas\.(eval|read_pickle|io)|joblib|dill|cloudpickle|IPython|pip|pkg_resources|requests"
    r"|setuptools)(\..*)?"
)


def is_data(name: str) -> bool:
    """Returns whether a dotted name refers to data, or to a user-defined class or function.

    Names of the standard library must be listed as data; names of other packages must not be listed
    as loaders.
    """
    module, _, attribute = name.rpartition(".")
    if re.search(r"\.__(?!main)\w+__(\.|$)", name):  # These attributes give access to all objects.
        return False
    if module == "builtins" and isinstance(getattr(builtins, attribute, None), type):
        return True
    if module.partition(".")[0] in sys.stdlib_module_names:
        return name in _DATA or module in _DATA_MODULES
    return not _LOADERS.fullmatch(name)


def present_name(module: str, name: str) -> str:
    """Returns the dotted name in Python 3; old protocols use the names of Python 2."""
    renamed = _compat_pickle.NAME_MAPPING.get((module, name))
    return ".".join(renamed or (_compat_pickle.IMPORT_MAPPING.get(module, module), name))

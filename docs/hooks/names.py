"""An extension of griffe: what docstrings of this package have that others do not.

Names in their text become links to where they are told, and an `Example:` is code.
"""

import re
from typing import Any

import griffe

# Griffe knows the section by its plural only, and takes the singular for a remark.
_EXAMPLE = re.compile(r"^Example:\n((?:    .*\n?|\n)+)", re.MULTILINE)
_NAME = re.compile(r"(?<!`)`((?:cfx_jax\.)?[A-Za-z_][\w.]*)`(?!`)")


class Names(griffe.Extension):
    """Links `cfx_jax.a.b`, and the names of the package itself, such as `Explanation`."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Goes through all docstrings of a package."""
        _link(pkg, {name: f"{pkg.path}.{name}" for name in pkg.exports or ()})


def _link(owner: griffe.Module | griffe.Class, public: dict[str, str]) -> None:
    for member in owner.members.values():
        if member.is_alias:
            continue
        if member.docstring:
            text = _EXAMPLE.sub(write_example, member.docstring.value)
            member.docstring.value = link_names(text, public)
        if isinstance(member, griffe.Module | griffe.Class):
            _link(member, public)


def write_example(match: re.Match[str]) -> str:
    """Returns a section of examples; one that is no session of Python in a fence."""
    code = match[1]
    if not code.lstrip().startswith(">>>"):
        code = f"    ```python\n{code.rstrip()}\n    ```\n"
    return f"Examples:\n{code}"


def link_names(text: str, public: dict[str, str]) -> str:
    """Returns a docstring with links; a name that has no place on the site stays as it is."""

    def link(match: re.Match[str]) -> str:
        name = match[1]
        place = public.get(name, name if name.startswith("cfx_jax.") else "")
        if not place:
            return match[0]
        return f'<autoref identifier="{place}" optional><code>{name}</code></autoref>'

    return _NAME.sub(link, text)

"""Griffe extension for two conventions of this package's docstrings.

Names in their text become links to their documentation, and the content of `Example:` is code.
"""

import re
from typing import Any

import griffe

# Griffe knows this section only as `Examples:` and treats the singular as an admonition.
_EXAMPLE = re.compile(r"^Example:\n((?:    .*\n?|\n)+)", re.MULTILINE)
_NAME = re.compile(r"(?<!`)`((?:cfx_jax\.)?[A-Za-z_][\w.]*)`(?!`)")


class Names(griffe.Extension):
    """Links `cfx_jax.a.b`, and the names of the package itself, such as `Explanation`."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrites all docstrings of a package."""
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
    """Returns an `Examples:` section; code without `>>>` prompts is put in a fence."""
    code = match[1]
    if not code.lstrip().startswith(">>>"):
        code = f"    ```python\n{code.rstrip()}\n    ```\n"
    return f"Examples:\n{code}"


def link_names(text: str, public: dict[str, str]) -> str:
    """Returns a docstring with links; a name without a page on the site is left unchanged."""

    def link(match: re.Match[str]) -> str:
        name = match[1]
        place = public.get(name, name if name.startswith("cfx_jax.") else "")
        if not place:
            return match[0]
        return f'<autoref identifier="{place}" optional><code>{name}</code></autoref>'

    return _NAME.sub(link, text)

"""Hooks of mkdocs: pages that are made of other files of the checkout, and links to these.

What a page is made of stays where people look for it without a site: the changes in CHANGELOG.md,
the examples beside their code, the fields of a config in its docstring.
"""

import pathlib
import re

import commands
import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[2]
# Files outside of docs/ that have a page of their own.
PAGES = {"CHANGELOG.md": "changelog.md", "examples/README.md": "examples.md"}
# Links lead to files, so that they work without the site, too: on it, they lead to these.
LINKS = {f"../{source}": page for source, page in PAGES.items()} | {
    "../cfx_jax/config.py": "cli.md",
    "../cfx_jax/evaluate/config.py": "cli.md#cfx_jaxevaluate",
    "tutorial.py": "tutorial.ipynb",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what is made of other files: pages, and the tutorial as a notebook."""
    made = {page: (ROOT / source).read_text("utf-8") for source, page in PAGES.items()}
    made["examples.md"] += examples()
    made["cli.md"] = commands.write_page()
    notebook = jupytext.read(ROOT / "docs" / "tutorial.py")
    made["tutorial.ipynb"] = jupytext.writes(notebook, fmt="ipynb")
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Leads links to files that have a page of their own to that page."""
    for source, page in LINKS.items():
        markdown = markdown.replace(f"]({source})", f"]({page})")
    # Pages made of files of the root.
    return re.sub(r"\]\(docs/([\w/]+\.md)", r"](\1", markdown)


def examples() -> str:
    """Returns the files of examples, each with its code."""
    parts = []
    for path in sorted((ROOT / "examples").glob("*.py")):
        parts.append(f"\n## {path.name}\n\n```python\n{path.read_text('utf-8').strip()}\n```\n")
    return "".join(parts)

"""MkDocs hooks: generate pages from other files of the checkout, and redirect links to them.

The sources stay where a reader of the repository expects them: the changes in CHANGELOG.md, the
examples next to their code, the fields of a config in its docstring.
"""

import pathlib
import re

import commands
import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[2]
# Files outside docs/ that have a page on the site.
PAGES = {"CHANGELOG.md": "changelog.md", "examples/README.md": "examples.md"}
# Links in the pages point to files, so that they work in the repository. On the site they point to
# these pages.
LINKS = {f"../{source}": page for source, page in PAGES.items()} | {
    "../cfx_jax/config.py": "cli.md",
    "../cfx_jax/evaluate/config.py": "cli.md#cfx_jaxevaluate",
    "tutorial.py": "tutorial.ipynb",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages, and the tutorial as a notebook."""
    made = {page: (ROOT / source).read_text("utf-8") for source, page in PAGES.items()}
    made["examples.md"] += examples()
    made["cli.md"] = commands.write_page()
    notebook = jupytext.read(ROOT / "docs" / "tutorial.py")
    made["tutorial.ipynb"] = jupytext.writes(notebook, fmt="ipynb")
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replaces links to files that have a page on the site with links to that page."""
    for source, page in LINKS.items():
        markdown = markdown.replace(f"]({source})", f"]({page})")
    # Links in pages generated from files in the root folder.
    return re.sub(r"\]\(docs/([\w/]+\.md)", r"](\1", markdown)


def examples() -> str:
    """Returns a section for each example file, with its code."""
    parts = []
    for path in sorted((ROOT / "examples").glob("*.py")):
        parts.append(f"\n## {path.name}\n\n```python\n{path.read_text('utf-8').strip()}\n```\n")
    return "".join(parts)

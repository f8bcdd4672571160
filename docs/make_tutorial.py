"""Runs docs/tutorial.py as a notebook and writes its page, docs/tutorial.md, with its pictures.

python docs/make_tutorial.py

The page and the pictures are committed, so that the site builds in seconds and the page can be read
in the repository.
"""

import base64
import io
import pathlib
from typing import Any

import jupytext
import nbclient
from PIL import Image

DOCS = pathlib.Path(__file__).parent
SOURCE = DOCS / "tutorial.py"
PAGE = DOCS / "tutorial.md"
PICTURES = DOCS / "images"
HEAD = "---\nhide: [navigation]\n---\n\n<!-- Made of tutorial.py by make_tutorial.py. -->\n\n"
_SECONDS = 1200  # time limit of a cell


def main() -> None:
    """Runs the notebook and writes the page."""
    notebook = run(jupytext.read(SOURCE))
    for old in PICTURES.glob("tutorial_*.webp"):
        old.unlink()
    parts = []
    for cell in notebook.cells:
        parts += [write_source(cell), *write_outputs(cell)]
    PAGE.write_text(HEAD + "\n\n".join(parts) + "\n", "utf-8")


def run(notebook: Any) -> Any:
    """Runs all cells of a notebook in a separate process; an error in a cell stops it."""
    nbclient.NotebookClient(notebook, timeout=_SECONDS, kernel_name="python3").execute()
    return notebook


def write_source(cell: Any) -> str:
    """Returns the text of a cell, or its code in a fence."""
    source = cell.source.strip()
    return source if cell.cell_type == "markdown" else f"```python\n{source}\n```"


def write_outputs(cell: Any) -> list[str]:
    """Returns the printed output of a cell in a fence, and a link to its picture.

    The picture is written to a file.
    """
    outputs = cell.get("outputs", [])
    parts = []
    if printed := "".join(out.text for out in outputs if out.get("name") == "stdout").rstrip():
        parts.append(f"```text\n{printed}\n```")
    for output in outputs:
        if "image/png" in output.get("data", {}):
            name = f"tutorial_{cell.metadata['picture']}.webp"
            png = base64.b64decode(output.data["image/png"])
            Image.open(io.BytesIO(png)).convert("RGB").save(PICTURES / name, quality=85, method=6)
            parts.append(f"![{cell.metadata['alt']}](images/{name})")
    return parts


if __name__ == "__main__":
    main()

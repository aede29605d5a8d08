"""What mkdocs does not do by itself: the changelog is a page, and roles of Sphinx are plain code."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie beside ``docs/``."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "changelog.md", content=text))
    return files


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Leave the code of a role such as ``:meth:`` and drop the role."""
    return re.sub(r":(?:meth|class|func|attr|data|mod):(?=<code)", "", html)

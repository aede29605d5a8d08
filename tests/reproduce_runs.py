"""Runs ``sppnet reproduce`` and reads what it wrote."""

import json
from pathlib import Path
from typing import Any

from sppnet.app.main import main


def reproduce(*words: object) -> tuple[int, dict[str, Any]]:
    """Run the command with ``--out``: its exit code and the record of the table."""
    out = Path(str(words[words.index("--out") + 1]))
    code = main(["reproduce", *map(str, words)])
    return code, json.loads((out / f"table-{words[0]}.json").read_text())


def measured(record: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Numbers that were measured, by row and column."""
    return {
        (cell["row"], cell["column"]): cell["measured"]
        for cell in record["cells"]
        if cell["measured"] is not None
    }

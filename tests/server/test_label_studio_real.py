"""A real Label Studio: installed from PyPI, started on this machine, labelled in, learnt from.

Its environment (half a gigabyte) is kept where SPPNET_LABEL_STUDIO says, else made for this run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "label_studio.py"


@pytest.mark.slow
def test_boxes_that_are_saved_in_label_studio_are_learnt_and_suggested(tmp_path: Path) -> None:
    data = Path(os.environ.get("SPPNET_DATA", "")) / "cards"
    if not data.is_dir():
        pytest.skip("SPPNET_DATA has no cards")
    venv = Path(os.environ.get("SPPNET_LABEL_STUDIO", tmp_path / "venv"))
    words = ["--data", data, "--venv", venv, "--out", tmp_path, "--photos", "24", "--pace", "1"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads((tmp_path / "label_studio.json").read_text())
    assert figures["boxes"] >= 20
    assert figures["suggested"] > 0
    assert figures["model_version"].startswith("warm ")
    assert figures["annotation_answered_seconds"] > 0

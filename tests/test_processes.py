"""Children of a process that has worked with threads: none hangs, and all see what it sees."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sppnet.images import draw_detection_set

PROGRAM = Path(__file__).parent / "work_in_processes.py"


# Spawned children import torch again: five times in all.
@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_children_work_as_their_parent_does(tmp_path: Path, method: str) -> None:
    draw_detection_set(tmp_path, 4, 0)
    environment = {name: text for name, text in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path, method],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "same"

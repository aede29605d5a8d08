"""Without Unix every module can be imported, and files, locks, caches and runs do their work."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("windows_stand_in.py")
STEPS = [
    "import_everything",
    "write_and_read",
    "leave_living_writers_alone",
    "use_a_cache",
    "run_and_save",
    "call_the_command",
]


def test_everything_works_where_unix_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)],
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line in STEPS] == STEPS

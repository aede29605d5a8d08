"""``sppnet reproduce`` records what decides the numbers, under keys that do not change."""

import json
from pathlib import Path

from reproduce_runs import reproduce


def test_keys_of_the_record_stay_those_of_earlier_runs(tmp_path: Path) -> None:
    _, record = reproduce(1, "--windows", 7, "--out", tmp_path)
    effort = record["configuration"]["effort"]
    assert effort["windows"] == 7
    assert set(effort) == {
        "proposals",
        "windows",
        "updates",
        "widths",
        "timed",
        "share",
        "parts",
    }
    assert json.loads((tmp_path / "run.json").read_text())["configuration"]["effort"] == effort

"""The soak of ``benchmarks/reliability``: it sees what grows, and runs for a minute."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import soak

from sppnet.app.main import main
from sppnet.images import draw_detection_set

MINUTES, REQUESTS = 120, 60  # a minute


def _rows(leak: float = 0.0, files: int = 0, threads: int = 0) -> list[soak.Row]:
    """Looks at a server whose connections come and go, and which keeps some bytes a request."""
    return [
        {
            "megabytes": 600 + (minute % 3) + leak * REQUESTS * minute / 1e6,
            "files": 14 + minute % 5 + files * minute // MINUTES,
            "threads": 5 + minute % 2 + threads * minute // MINUTES,
        }
        for minute in range(MINUTES)
    ]


def test_what_comes_and_goes_is_no_growth() -> None:
    assert soak.grown("it", _rows())[1] == []


@pytest.mark.parametrize(
    ("planted", "word"),
    [({"leak": 12_000}, "megabytes"), ({"files": 12}, "files"), ({"threads": 8}, "threads")],
)
def test_what_is_kept_is_growth(planted: dict, word: str) -> None:
    (wrong,) = soak.grown("it", _rows(**planted))[1]
    assert word in wrong


def test_few_looks_show_nothing() -> None:
    assert soak.grown("it", _rows()[:3])[1] == ["it: only 3 looks"]


def test_only_the_last_life_of_the_label_server_counts() -> None:
    rows = [
        {"serve": {"own": row, "children": row}, "label": {"own": row}, "life": 0, "temporaries": 1}
        for row in _rows()
    ]
    for number, row in enumerate(rows):
        low, high = {**row["label"]["own"], "megabytes": 300}, row["label"]["own"]
        row["label"] = {"own": low if number < MINUTES // 2 else high}
    assert soak.judge(rows)[1] == ["label: megabytes 300.0 then 601.0"]
    for row in rows[MINUTES // 2 :]:
        row["life"] = 1
    assert soak.judge(rows)[1] == []
    rows[-1]["temporaries"] = 2
    assert "temporaries" in soak.judge(rows)[1][0]


@pytest.mark.slow
def test_a_minute_of_both_servers(tmp_path: Path) -> None:
    data, run = draw_detection_set(tmp_path / "data", 60, seed=0), tmp_path / "run"
    words = "--backbone small5 --weights none --imgsz 96 --proposals grid --max-proposals 60"
    words += " --no-operating-point --no-box-regression --no-anchors"
    assert main(["detect", "train", str(data), *words.split(), "--out", str(run)]) == 0
    hurry = ["--hours", "0.02", "--kill-seconds", "20", "--every", "5"]
    hurry += ["--rate", "2", "--label-seconds", "0.7"]
    places = ["--data", str(data), "--model", str(run / "model"), "--out", str(tmp_path)]
    subprocess.run([sys.executable, soak.__file__, *hurry, *places], check=False)
    found = json.loads((tmp_path / "soak.json").read_text())
    # so early memory may still grow; what is asked and answered must be right already
    assert [words for words in found["each"]["wrong"] if "megabytes" not in words] == []
    for name in ("answers_wrong", "answers_lost_beyond_kills", "answers_500", "edits_lost"):
        assert found[name] == 0
    assert min(found["requests"]) > 20
    assert min(found["killed"]) > 0

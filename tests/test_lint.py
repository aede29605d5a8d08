"""The linter and the type checker reject what they should; a silent linter helps nobody."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BAD = "import os\nfrom pathlib import Path\ndef area(w, h=[]):\n  assert w\n  return w * h[0]\n"
GOOD = '''"""Areas."""


def area(width: float, height: float) -> float:
    """Area of a rectangle."""
    return width * height
'''


def ruff(*words: str, source: str) -> subprocess.CompletedProcess[str]:
    """Run ruff on a source as if it lay in the package."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            *words,
            "--stdin-filename",
            "src/sppnet/geometry/areas.py",
            "-",
        ],
        input=source,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


def test_ruff_rejects_a_bad_file() -> None:
    result = ruff("check", "--output-format", "concise", source=BAD)
    assert result.returncode == 1
    for code in ["F401", "D100", "D103", "B006", "S101"]:
        assert code in result.stdout, code
    assert ruff("format", "--check", source=BAD).returncode == 1


def test_ruff_accepts_a_good_file() -> None:
    result = ruff("check", source=GOOD)
    assert result.returncode == 0, result.stdout
    assert ruff("format", "--check", source=GOOD).returncode == 0


def test_type_checker_rejects_a_bad_file(tmp_path: Path) -> None:
    bad = tmp_path / "areas.py"
    bad.write_text("def area(w):\n    return w\n\nx: int = 'text'\n", encoding="utf-8")
    words = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path), str(bad)]
    result = subprocess.run(
        [sys.executable, "-m", "mypy", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 1
    assert "no-untyped-def" in result.stdout
    assert "assignment" in result.stdout

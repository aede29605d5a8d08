r"""What the package depends on: known faults, a bill of materials, hashes. Id F13.

    pip install pip-audit cyclonedx-bom
    python benchmarks/reliability/supply.py --out DIR

``pip-audit --strict`` looks at what is installed, and nothing counts that was skipped: behind a
mirror without advisories pip-audit ends well without having looked at anything. Whether or not it
could look, the versions are compared with the least ones that are free of the faults we know of.
Leaves sbom.json (CycloneDX) and, with ``--lock``, requirements.lock: all that ``pip install .``
would take, with SHA-256, for ``pip install --require-hashes``. Prints JSON.
"""

import argparse
import contextlib
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
# by package: the least version without faults that we know of, and one of them
FLOORS = {
    "pillow": ("13.0.0", "CVE-2026-112403"),
    "torch": ("2.10", "CVE-2026-24747"),
    "python-multipart": ("0.0.27", "CVE-2026-42561"),
    "starlette": ("0.49.1", "CVE-2025-62727"),
    "h11": ("0.16.0", "CVE-2025-43859"),
    "jinja2": ("3.1.6", "CVE-2025-27516"),
    "onnx": ("1.17", "CVE-2024-5187"),
    "pyyaml": ("5.4", "CVE-2020-14343"),
    "numpy": ("1.22", "CVE-2021-41496"),
}


def below(floors: Mapping[str, tuple[str, str]], installed: Mapping[str, str]) -> list[str]:
    """Packages that are older than they should be."""
    return [
        f"{name} {installed[name]} < {least} ({fault})"
        for name, (least, fault) in floors.items()
        if name in installed and Version(installed[name]) < Version(least)
    ]


def audit(folder: Path) -> dict[str, Any]:
    """Have pip-audit look at what is installed."""
    out = folder / "audit.json"
    place = next(path for path in sys.path if path.endswith("site-packages"))
    command = [sys.executable, "-m", "pip_audit", "--path", place, "-f", "json", "-o", str(out)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if not out.exists():
        return {"looked_at": 0, "skipped": None, "said": run.stderr[-400:]}
    found = json.loads(out.read_text())["dependencies"]
    skipped = sum("skip_reason" in each for each in found)
    faults = {each["name"]: [v["id"] for v in each["vulns"]] for each in found if each.get("vulns")}
    return {"looked_at": len(found) - skipped, "skipped": skipped, "faults": faults}


def bill(folder: Path) -> int:
    """Write the bill of materials; how many parts it has."""
    out = folder / "sbom.json"
    command = [sys.executable, "-m", "cyclonedx_py", "environment", sys.executable, "-o", str(out)]
    subprocess.run(command, capture_output=True, check=True)
    return len(json.loads(out.read_text())["components"])


def lock(folder: Path) -> int:
    """Write what would be installed, with hashes; how many files that is."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
        subprocess.run(
            [*command, "--report", report.name, str(ROOT)], check=True, stdout=sys.stderr
        )
        found = json.loads(Path(report.name).read_text())["install"]
    lines = []
    for each in found:
        about, hashes = (
            each["metadata"],
            each["download_info"].get("archive_info", {}).get("hashes", {}),
        )
        if "sha256" in hashes:
            lines.append(f"{about['name']}=={about['version']} --hash=sha256:{hashes['sha256']}")
    (folder / "requirements.lock").write_text("\n".join(sorted(lines)) + "\n")
    return len(lines)


def main() -> None:
    """Look, write, print, and leave with 1 if something is old, at fault, or was not looked at."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--lock", action="store_true")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    installed = {
        each.metadata["Name"].lower().replace("_", "-"): each.version
        for each in importlib.metadata.distributions()
    }
    direct = [Requirement(each) for each in importlib.metadata.requires("sppnet") or []]
    old = below(FLOORS, installed)
    found: dict[str, Any] = {
        "installed": len(installed),
        "direct": sum(each.marker is None for each in direct),
        "floors": len(FLOORS),
        "below_a_floor": old,
        "sees_a_planted_old_one": bool(below(FLOORS, {"pillow": "12.2.0"})),
        "pip_audit": audit(chosen.out),
    }
    with contextlib.suppress(subprocess.CalledProcessError, FileNotFoundError):
        found["parts_in_sbom"] = bill(chosen.out)
    if chosen.lock:
        found["locked"] = lock(chosen.out)
    print(json.dumps(found, indent=1))
    looked = found["pip_audit"]
    is_fine = not old and looked["skipped"] == 0 and not looked["faults"]
    sys.exit(0 if is_fine else 1)


if __name__ == "__main__":
    main()

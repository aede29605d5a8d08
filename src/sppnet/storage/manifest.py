"""The manifest of a model folder: what the files are, their SHA-256, and its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sppnet.errors import UnusableFileError
from sppnet.storage.atomic import json_text
from sppnet.storage.reading import parse_json, read_bytes, sha256_bytes

FORMAT = "sppnet-model"
VERSION = 1
MANIFEST = "manifest.json"
MAX_JSON_BYTES = 16 * 2**20


def is_model(folder: str | Path) -> bool:
    """Tell whether a folder is meant to hold a model: whether it has a manifest."""
    return (Path(folder) / MANIFEST).is_file()


def manifest_text(kind: str, files: Mapping[str, bytes]) -> str:
    """Text of the manifest: what the files are, and a checksum of the manifest itself."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "files": {
            name: {"bytes": len(data), "sha256": sha256_bytes(data)} for name, data in files.items()
        },
    }
    return _with_checksum(content)


def _with_checksum(content: Mapping[str, Any]) -> str:
    """Add the SHA-256 of the content's own text."""
    return json_text({**content, "sha256": sha256_bytes(json_text(content).encode())})


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest; it must be, byte for byte, what its content would be written as."""
    data = read_bytes(path, MAX_JSON_BYTES)
    manifest = parse_json(data, path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UnusableFileError(f"is not a manifest of {FORMAT}", path=path, code="E_FORMAT")
    if _with_checksum({k: v for k, v in manifest.items() if k != "sha256"}).encode() != data:
        raise UnusableFileError("the file was changed after saving", path=path, code="E_CHECKSUM")
    if manifest.get("version") != VERSION:
        rule = f"model format {manifest.get('version')!r} is unknown; this version reads {VERSION}"
        raise UnusableFileError(rule, path=path, code="E_FORMAT")
    return manifest


def read_listed(path: Path, manifest: Mapping[str, Any], max_bytes: int) -> bytes:
    """Read a file that the manifest lists and compare its SHA-256."""
    data = read_bytes(path, max_bytes)
    listed = manifest.get("files", {}).get(path.name, {})
    if len(data) != listed.get("bytes") or sha256_bytes(data) != listed.get("sha256"):
        rule = f"SHA-256 or length differs from {MANIFEST}: the file was cut or changed"
        raise UnusableFileError(rule, path=path, code="E_CHECKSUM")
    return data

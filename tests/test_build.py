"""Kernels are compiled where they can be; the package is built without them where they cannot."""

import importlib.util
import platform
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def hatch_build() -> ModuleType:
    """The build hook, which lies outside the package."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Listener:
    """As much of Hatch's application as the hook asks for."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def display_warning(self, message: str) -> None:
        self.warnings.append(message)


def run_hook(hatch_build: ModuleType, root: Path, target: str) -> tuple[dict[str, Any], list[str]]:
    """Run the hook; return what it changed and its warnings."""
    hook = object.__new__(hatch_build.KernelBuildHook)
    listener = Listener()
    for name, value in {"root": str(root), "app": listener, "target_name": target}.items():
        setattr(hook, f"_BuildHookInterface__{name}", value)
    build_data: dict[str, Any] = {"artifacts": [], "pure_python": True}
    hook.initialize("standard", build_data)
    return build_data, listener.warnings


def test_libraries_are_compiled_and_go_into_a_wheel_for_this_platform(
    hatch_build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in hatch_build.SOURCES:
        (tmp_path / source).parent.mkdir(parents=True)

    def compile_nothing(command: list[str], **_options: Any) -> None:
        Path(command[command.index("-o") + 1]).write_bytes(b"library")

    monkeypatch.setattr(subprocess, "run", compile_nothing)
    monkeypatch.setattr(platform, "machine", lambda: "AMD64")
    build_data, warnings = run_hook(hatch_build, tmp_path, "wheel")
    assert warnings == []
    assert len(set(build_data["artifacts"])) == 3 * len(hatch_build.SOURCES) == 9
    assert all((tmp_path / each).read_bytes() == b"library" for each in build_data["artifacts"])
    assert not list(tmp_path.rglob("*.partial"))
    assert build_data["pure_python"] is False
    assert build_data["tag"].startswith("py3-none-")


@pytest.mark.parametrize("machine", ["x86_64", "riscv64"])
def test_without_a_compiler_the_package_is_built_without_a_kernel(
    hatch_build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    def fail(command: list[str], **_options: Any) -> None:
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    build_data, warnings = run_hook(hatch_build, tmp_path, "wheel")
    assert build_data == {"artifacts": [], "pure_python": True}
    assert len(warnings) == 1
    assert warnings[0].startswith("no kernels for this machine, pooling in plain torch: ")


def test_every_listed_source_exists(hatch_build: ModuleType) -> None:
    assert all((ROOT / source).is_file() for source in hatch_build.SOURCES)


def test_a_source_archive_holds_no_libraries(hatch_build: ModuleType, tmp_path: Path) -> None:
    assert run_hook(hatch_build, tmp_path, "sdist") == ({"artifacts": [], "pure_python": True}, [])


def test_a_wheel_holds_what_a_page_is_made_of() -> None:
    pytest.importorskip("hatchling")
    from hatchling.builders.wheel import WheelBuilder

    packed = {each.distribution_path for each in WheelBuilder(str(ROOT)).recurse_included_files()}
    folder = "sppnet/evaluation/report"
    assert {f"{folder}/page.css", f"{folder}/templates/blocks.html"} <= packed
    assert f"{folder}/templates/page.html" in packed

"""Compiles the kernels while the package is built, by the compiler that pip brings (Zig).

One library of each per generation of processors, chosen at run time. Where nothing compiles, the
package is built without them: it pools in plain torch, and has no proposals from graphs.
``sppnet info`` says which.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = [
    Path("src/sppnet/pooling/kernels/native/pyramid_pool.cpp"),
    Path("src/sppnet/detection/proposals/native/graph_windows.cpp"),
    Path("src/sppnet/detection/heads/native/dual_ascent.cpp"),
]
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
GENERATIONS = {
    "x86_64": {"avx512": "x86_64_v4", "avx2": "x86_64_v3", "baseline": "x86_64_v2"},
    "aarch64": {"baseline": "generic"},
}
FLAGS = [
    "-std=c++17",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-exceptions",
    "-fno-rtti",
    "-fvisibility=hidden",
    "-fno-sanitize=undefined",
    "-nostdlib++",
    "-Wno-psabi",
    "-shared",
    "-s",
]


class KernelBuildHook(BuildHookInterface):
    """Builds the libraries next to their source and puts them into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, if this is a wheel or an editable installation."""
        if self.target_name != "wheel":
            return
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
            platform.machine().lower(), platform.machine()
        )
        try:
            generations = GENERATIONS[machine].items()
            jobs = [(source, *each) for source in SOURCES for each in generations]
            with ThreadPoolExecutor() as executor:
                built = list(executor.map(lambda job: self._compile(machine, *job), jobs))
        except (KeyError, OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(
                f"no kernels for this machine, pooling in plain torch: {error}"
            )
            return
        build_data["artifacts"] += built
        build_data["pure_python"] = False
        build_data["tag"] = (
            f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        )

    def _compile(self, machine: str, source: Path, name: str, cpu: str) -> str:
        """Compile for one generation; the finished file replaces the one before at once."""
        path = Path(self.root) / source
        library = path.with_name(f"{path.stem}_{name}{SUFFIX}")
        with tempfile.TemporaryDirectory() as cache:
            caches = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
            command = [
                sys.executable,
                "-m",
                "ziglang",
                "c++",
                *_target(machine),
                f"-mcpu={cpu}",
                *FLAGS,
            ]
            out = Path(cache) / library.name
            subprocess.run(
                [*command, "-o", str(out), str(path)],
                env={**os.environ, **caches},
                check=True,
            )
            partial = library.with_suffix(".partial")
            shutil.copyfile(out, partial)
            partial.replace(library)
        return str(library.relative_to(self.root))


def _target(machine: str) -> list[str]:
    """On Linux with glibc, run with any of the last years; elsewhere, what the machine has."""
    if platform.libc_ver()[0] == "glibc":
        return ["-target", f"{machine}-linux-gnu.2.28", "-fPIC", "-lpthread"]
    return []

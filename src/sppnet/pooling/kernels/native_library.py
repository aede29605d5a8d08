"""Finds and loads the libraries that the installation compiles, one per generation of processors.

The best one that this processor runs is loaded on first use; calls into it release the GIL and work
in torch's threads, where those are OpenMP's. The kernel of the pooling and that of graph proposals
are both loaded this way.
"""

import ctypes
import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")


@dataclass(frozen=True)
class NativeLibrary:
    """One library in its generations.

    Args:
        folder: Where they lie, beside their source.
        stem: Name of the files before the generation.

    Example:
        >>> NativeLibrary(Path("nowhere"), "nothing").generation() is None
        True
    """

    folder: Path
    stem: str

    def generation(self) -> str | None:
        """Name of the one that this processor gets, None where none was compiled."""
        able = {"AVX512": ["avx512", "avx2"], "AVX2": ["avx2"]}
        names = [*able.get(torch.backends.cpu.get_cpu_capability(), []), "baseline"]
        return next((name for name in names if self._path(name).exists()), None)

    def _path(self, name: str) -> Path:
        return self.folder / f"{self.stem}_{name}{SUFFIX}"

    def functions(
        self, signatures: Mapping[str, Sequence[Any]], result: Any = ctypes.c_int
    ) -> dict[str, Any]:
        """Load the library and declare its functions.

        Args:
            signatures: Name -> types of the arguments.
            result: Type of what all of them return.

        Returns:
            Name -> function.

        Raises:
            RuntimeError: If none was compiled for this processor.
        """
        name = self.generation()
        if name is None:
            raise RuntimeError("no kernel was compiled for this processor")
        library, functions = _load(str(self._path(name))), {}
        for function, arguments in signatures.items():
            functions[function] = getattr(library, function)
            functions[function].argtypes = arguments
            functions[function].restype = result
        return functions


@functools.cache
def _load(path: str) -> ctypes.CDLL:
    library = ctypes.CDLL(path)
    library.sppnet_use_team.argtypes, library.sppnet_use_team.restype = [ctypes.c_void_p], None
    library.sppnet_use_team(_openmp_function())
    return library


def _openmp_function() -> int | None:
    """Address of what starts a team of torch's threads; None where torch has no OpenMP."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    except (AttributeError, OSError, TypeError):  # another OpenMP, or Windows, which has no None
        return None

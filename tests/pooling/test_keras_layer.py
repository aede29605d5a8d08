"""The Keras layer: every check on every backend, each backend in a process of its own."""

import ast
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import sppnet

PACKAGE = Path(sppnet.__file__).parent
CHECKS = Path(__file__).with_name("keras_checks.py")
BACKENDS = ("tensorflow", "jax", "torch")
INSTALL = "the checks need keras, tensorflow, jax and torch: run `pip install -e '.[dev]'`"


def check_names() -> list[str]:
    """Names of the checks, without importing them: Keras would bind itself to a backend here."""
    tree = ast.parse(CHECKS.read_text(encoding="utf-8"))
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [name for name in functions if name.startswith("check_")]


@functools.cache
def run_checks(backend: str, sizes: str) -> tuple[dict[str, str | None], str]:
    """Results of all checks on a backend (none if it could not start) and what it complained of."""
    settings = {
        "KERAS_BACKEND": backend,
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "OMP_NUM_THREADS": "1",
    }
    with tempfile.TemporaryDirectory() as home:  # Keras reads nobody's settings and leaves none
        try:
            done = subprocess.run(
                [sys.executable, str(CHECKS), sizes],
                env=os.environ | settings | {"KERAS_HOME": home},
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
        except subprocess.TimeoutExpired as error:  # kept, so that not every check waits anew
            return {}, str(error)
    lines = done.stdout.splitlines()
    return (json.loads(lines[-1]) if done.returncode == 0 and lines else {}), done.stderr


@pytest.mark.parametrize("check", check_names())
@pytest.mark.parametrize("sizes", ["--few", pytest.param("--all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_layer_on_every_backend(backend: str, sizes: str, check: str) -> None:
    results, complaints = run_checks(backend, sizes)
    if check not in results:
        pytest.fail(f"no checks ran on {backend}; {INSTALL}\n{complaints[-2000:]}")
    if results[check] is not None:
        pytest.fail(f"on {backend}: {results[check]}")


def test_backend_that_cannot_start_fails_with_the_install_command() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"no checks ran on none; .*`pip install -e"):
        test_layer_on_every_backend("none", "--few", check_names()[0])


def test_without_keras_the_error_names_the_install_command(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "keras", None)
    monkeypatch.delitem(sys.modules, "sppnet.pooling.keras_layer", raising=False)
    with pytest.raises(ImportError, match=r"needs Keras 3.* run `pip install 'sppnet\[keras\]'`"):
        import sppnet.pooling.keras_layer  # noqa: F401


def modules_named(source: str) -> set[str]:
    """First names of all modules that a source imports."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[0] for name in names} | {name.split(".")[-1] for name in names}


def test_nothing_else_imports_keras() -> None:
    sources = {path.stem: path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}
    found = {
        name for name, source in sources.items() if modules_named(source) & {"keras", "keras_layer"}
    }
    assert found == {"keras_layer"}

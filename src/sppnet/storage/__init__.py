"""Atomic checked files, the feature cache, model folders and run folders."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sppnet.storage.atomic import (
    ensure_output_folder,
    read_bytes,
    read_json,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
)
from sppnet.storage.manifest import is_model
from sppnet.storage.run_folder import RunFolder, Stages

if TYPE_CHECKING:
    from sppnet.storage.feature_cache import FeatureCache
    from sppnet.storage.model_folder import load_model, read_kind, restore_model, save_model
    from sppnet.storage.tensor_bytes import put_under, tensors_under
    from sppnet.storage.write_behind import WriteBehind

__all__ = [
    "FeatureCache",
    "RunFolder",
    "Stages",
    "WriteBehind",
    "ensure_output_folder",
    "is_model",
    "load_model",
    "put_under",
    "read_bytes",
    "read_json",
    "read_kind",
    "restore_model",
    "save_model",
    "sha256_bytes",
    "sha256_file",
    "tensors_under",
    "write_bytes",
    "write_json",
    "write_text",
]

# These need torch, which files and runs do not.
_MODULE_OF = {
    "FeatureCache": "feature_cache",
    "WriteBehind": "write_behind",
    "load_model": "model_folder",
    "put_under": "tensor_bytes",
    "read_kind": "model_folder",
    "restore_model": "model_folder",
    "save_model": "model_folder",
    "tensors_under": "tensor_bytes",
}


def __getattr__(name: str) -> Any:
    """Load a name that needs torch on its first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sppnet.storage' has no attribute {name!r}")
    return getattr(import_module(f"sppnet.storage.{_MODULE_OF[name]}"), name)

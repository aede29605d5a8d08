"""What is kept on disk: whole or absent, checked when read, safe from kills and second processes.

- ``files.py``: reads, hashes and atomically writes single files. Start here.
- ``temp_files.py``: unfinished files, and the locks that tell whether their writers live.
- ``cache.py``: feature maps, found again by a key. ``tensors.py``: tensors as bytes.
- ``models.py``: a model as a folder; ``hub.py``: shared, with a card.
- ``runs.py``: the folder of a run, locked and resumable; ``run_data.py``: what it learns from, and
  what changed there.
- ``label_store.py``: labels of photos with all their revisions, in one SQLite file;
  ``labels.py``: what is said about a photo, and the tables.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sppnet.storage.files import (
    ensure_output_folder,
    read_bytes,
    read_json,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
)
from sppnet.storage.label_store import LabelStore
from sppnet.storage.labels import ConflictError, LabelBox, PhotoLabels
from sppnet.storage.run_data import LearntFile, RunData
from sppnet.storage.runs import RunFolder, Stages, holds_run_of

if TYPE_CHECKING:
    from sppnet.storage.cache import FeatureCache, WriteBehind
    from sppnet.storage.hub import HubModel
    from sppnet.storage.models import (
        is_model,
        load_model,
        read_answers,
        read_kind,
        restore_model,
        save_model,
    )
    from sppnet.storage.tensors import put_under, tensors_under

__all__ = [
    "ConflictError",
    "FeatureCache",
    "HubModel",
    "LabelBox",
    "LabelStore",
    "LearntFile",
    "PhotoLabels",
    "RunData",
    "RunFolder",
    "Stages",
    "WriteBehind",
    "ensure_output_folder",
    "holds_run_of",
    "is_model",
    "load_model",
    "put_under",
    "read_answers",
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
    "FeatureCache": "cache",
    "HubModel": "hub",
    "WriteBehind": "cache",
    "is_model": "models",
    "load_model": "models",
    "put_under": "tensors",
    "read_answers": "models",
    "read_kind": "models",
    "restore_model": "models",
    "save_model": "models",
    "tensors_under": "tensors",
}


def __getattr__(name: str) -> Any:
    """Load a name that needs torch on its first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sppnet.storage' has no attribute {name!r}")
    return getattr(import_module(f"sppnet.storage.{_MODULE_OF[name]}"), name)

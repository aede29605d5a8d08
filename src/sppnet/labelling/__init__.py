"""Labelling photos while a detector learns from every label.

Where to start reading, in this order:

- ``session.py``: ``LabelSession``, what a person or a page talks to.
- ``loop.py``: what is still to be learnt, and when.
- ``learner.py``: a detector that is kept warm: rows of a photo come and go.
- ``folds.py``: what to expect of the next photo, which one that is, and doubts.
- ``class_session.py``: `ClassSession`, the same for names of whole photos; ``class_learner.py``:
  features and fit, probabilities and figures.
- ``base.py``: photos, store and background thread of every session.
- ``exchange.py``: labels from and for other tools; ``drawn.py``: boxes as people draw them, here
  and in Label Studio; ``cvat.py``: a trained model that annotates the tasks of a CVAT.

Labels themselves are kept by ``storage/label_store.py``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sppnet.labelling.drawn import Suggestions
    from sppnet.labelling.exchange import export_labels, import_labels
    from sppnet.labelling.folds import Doubt, Expectation
    from sppnet.labelling.session import LabelSession, SessionState

__all__ = [
    "Doubt",
    "Expectation",
    "LabelSession",
    "SessionState",
    "Suggestions",
    "export_labels",
    "import_labels",
]

# These need torch; what a session begins with (`base.py`) does not.
_MODULE_OF = {
    "Doubt": "folds",
    "Expectation": "folds",
    "LabelSession": "session",
    "SessionState": "session",
    "Suggestions": "drawn",
    "export_labels": "exchange",
    "import_labels": "exchange",
}


def __getattr__(name: str) -> Any:
    """Load a name that needs torch on its first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sppnet.labelling' has no attribute {name!r}")
    return getattr(import_module(f"sppnet.labelling.{_MODULE_OF[name]}"), name)

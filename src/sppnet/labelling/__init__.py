"""Labelling photos while a detector learns from every label.

Where to start reading, in this order:

- ``session.py``: ``LabelSession``, what a person or a page talks to.
- ``loop.py``: what is still to be learnt, and when; ``background.py``: the thread that does it.
- ``learner.py``: a detector that is kept warm: rows of a photo come and go.
- ``folds.py``: what to expect of the next photo; ``order.py``: which one that is, and doubts.
- ``exchange.py``: labels from and for other tools; ``drawn.py``: boxes as people draw them.

Labels themselves are kept by ``storage/label_store.py``.
"""

from sppnet.labelling.drawn import Suggestions
from sppnet.labelling.exchange import export_labels, import_labels
from sppnet.labelling.folds import Expectation
from sppnet.labelling.order import Doubt
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

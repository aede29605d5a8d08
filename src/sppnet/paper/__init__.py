"""The tables of the paper: the numbers it prints, and the same measured on the data at hand.

``printed.py`` holds the printed numbers, ``tables.py`` what came of measuring them, ``registry.py``
lists the tables. ``resources.py`` says what there is to measure with: data, networks, how much of
the protocol is done. ``imagenet.py`` measures tables 1 to 4, ``transfer.py`` 6 to 8 (their networks
and features: ``frozen.py``), ``detection.py`` 9 to 12: ``detection_setup.py`` finds networks and
images, ``detection_experiment.py`` trains and scores one column, ``detection_speed.py`` times it.
Start reading with ``registry.py``, then the table that you want.
"""

from sppnet.paper.registry import TABLES, find_table
from sppnet.paper.resources import Budget, NetworkTrainingConfig, Resources
from sppnet.paper.tables import Measured, NotRun, PaperTable, TableResult

__all__ = [
    "TABLES",
    "Budget",
    "Measured",
    "NetworkTrainingConfig",
    "NotRun",
    "PaperTable",
    "Resources",
    "TableResult",
    "find_table",
]

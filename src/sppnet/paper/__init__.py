"""The paper's tables: what each printed, and what the same measure gives on the data at hand."""

from sppnet.paper.registry import TABLES, find_table
from sppnet.paper.resources import Resources
from sppnet.paper.tables import Measured, NotRun, PaperTable, TableResult

__all__ = ["TABLES", "Measured", "NotRun", "PaperTable", "Resources", "TableResult", "find_table"]

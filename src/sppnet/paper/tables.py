"""A table of the paper together with the work that measures it again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sppnet.paper.printed import Printed
from sppnet.paper.results import Finding, TableResult
from sppnet.paper.supplies import Supplies
from sppnet.progress import Track

Work = Callable[[Supplies, Track], Iterator[Finding]]


@dataclass(frozen=True)
class PaperTable:
    """What is printed, and how it is measured.

    Args:
        printed: The paper's table.
        work: Yields a number, or why there is none, cell by cell, and what is wrong with files.
        wants: What it needs, a line each, for the help.
    """

    printed: Printed
    work: Work
    wants: tuple[str, ...] = ()

    def run(self, supplies: Supplies, track: Track) -> TableResult:
        """Measure what can be measured with what is there.

        Args:
            supplies: Data, networks, and how much of them to take.
            track: Shows the progress.

        Returns:
            The printed and the measured numbers; what could not be run says why.
        """
        result = TableResult(self.printed)
        for finding in self.work(supplies, track):
            result.add(finding)
        return result

"""A table of the paper, and what measuring it again gave."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sppnet.errors import Problem
from sppnet.paper.printed import Printed
from sppnet.paper.resources import Resources
from sppnet.progress import Track


@dataclass(frozen=True)
class Measured:
    """One number that was measured.

    Args:
        row: Row of the printed table.
        column: Column of the printed table.
        value: The number, in the table's unit.
        differs: What is not as in the paper here, in a few words.
        deviation: Over splits, seeds or images; None where there is one measurement.
        images: How many images it is from; None where none is needed.
        seconds: Time that it took.
        network: Name of the network that was measured; empty where there is none.
    """

    row: str
    column: str
    value: float
    differs: str = ""
    deviation: float | None = None
    images: int | None = None
    seconds: float = 0.0
    network: str = ""


@dataclass(frozen=True)
class NotRun:
    """One number that could not be measured.

    Args:
        row: Row of the printed table.
        column: Column of the printed table.
        reason: What is missing and where it goes.
    """

    row: str
    column: str
    reason: str


Finding = Measured | NotRun | Problem
Findings = Iterator[Finding]


@dataclass
class TableResult:
    """One table, printed and measured.

    Args:
        printed: The paper's table.
        measured: In the order of measuring.
        not_run: In the order of measuring.
        problems: What was wrong with files, each once.

    Example:
        >>> from sppnet.paper.printed import TABLE_3
        >>> result = TableResult(TABLE_3)
        >>> result.add(Measured("ZF-5, single-size trained", "1 full", 40.0))
        >>> [(row["paper"], row["measured"]) for row in result.records() if row["measured"]]
        [(37.55, 40.0)]
    """

    printed: Printed
    measured: list[Measured] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Add a number, the reason why one is missing, or a problem with a file."""
        if isinstance(finding, Measured):
            self.measured.append(finding)
        elif isinstance(finding, NotRun):
            self.not_run.append(finding)
        elif finding not in self.problems:
            self.problems.append(finding)

    def reasons(self) -> dict[str, int]:
        """Why numbers are missing, and how many for each reason."""
        counts: dict[str, int] = {}
        for cell in self.not_run:
            counts[cell.reason] = counts.get(cell.reason, 0) + 1
        return counts

    def differences(self) -> list[str]:
        """What is not as in the paper, each once."""
        return list(dict.fromkeys(cell.differs for cell in self.measured if cell.differs))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the printed table, then those that only our numbers have."""
        return tuple(dict.fromkeys((*self.printed.columns, *(c.column for c in self.measured))))

    @property
    def rows(self) -> tuple[str, ...]:
        """Rows of the printed table, then those that only our numbers have."""
        return tuple(dict.fromkeys((*self.printed.rows, *(c.row for c in self.measured))))

    def records(self) -> list[dict[str, Any]]:
        """Every cell that was printed or measured: what JSON and page show."""
        measured = {(cell.row, cell.column): cell for cell in self.measured}
        reasons = {(cell.row, cell.column): cell.reason for cell in self.not_run}
        papers = {
            (row, column): value
            for row, values in self.printed.rows.items()
            for column, value in zip(self.printed.columns, values, strict=True)
        }
        places = [(row, column) for row in self.rows for column in self.columns]
        return [
            {
                **_record(place, papers.get(place), measured.get(place), reasons.get(place, "")),
                "paper_deviation": self.printed.deviations.get(place),
            }
            for place in places
            if papers.get(place) is not None or place in measured
        ]


def _record(
    place: tuple[str, str], paper: float | None, cell: Measured | None, reason: str
) -> dict[str, Any]:
    """One cell as plain values."""
    row, column = place
    record: dict[str, Any] = {"row": row, "column": column, "paper": paper, "measured": None}
    if cell is None:
        return {**record, "not_run": reason} if reason else record
    return {
        **record,
        "measured": cell.value,
        "deviation": cell.deviation,
        "differs": cell.differs,
        "images": cell.images,
        "seconds": cell.seconds,
        "network": cell.network,
    }


Measure = Callable[[Resources, Track], Findings]


@dataclass(frozen=True)
class Need:
    """Something that a table is measured with.

    Args:
        text: What it is and where it goes, in a line.
        is_there: Tells whether it is; what is not is said when the table is run.
    """

    text: str
    is_there: Callable[[Resources], bool]


@dataclass(frozen=True)
class PaperTable:
    """What is printed, and how it is measured.

    Args:
        printed: The paper's table.
        measure: Yields a number or why there is none, cell by cell, and what is wrong with files.
        needs: What it is measured with.
    """

    printed: Printed
    measure: Measure
    needs: tuple[Need, ...] = ()

    def missing(self, resources: Resources) -> list[str]:
        """Say what it needs that is not there, a line each."""
        return [need.text for need in self.needs if not need.is_there(resources)]

    def run(self, resources: Resources, track: Track) -> TableResult:
        """Measure what can be measured with what is there.

        Args:
            resources: Data, networks, and how much of them to take.
            track: Shows the progress.

        Returns:
            The printed and the measured numbers; what could not be run says why.
        """
        result = TableResult(self.printed)
        for finding in self.measure(resources, track):
            result.add(finding)
        return result


def join_reasons(*found: object) -> str:
    """Join the reasons why something is missing: the strings among what was looked for.

    Example:
        >>> join_reasons("no data", 1, "no network")
        'no data; no network'
    """
    return "; ".join(reason for reason in found if isinstance(reason, str))

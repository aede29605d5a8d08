"""A table of the paper, or a claim, and what measuring it again gave."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, stdev
from typing import Any

from sppnet.errors import Problem
from sppnet.paper.printed import Printed, PrintedClaim
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

    def config(self) -> dict[str, Any]:
        """What was found, as plain values for JSON."""
        return {
            "measured": [asdict(cell) for cell in self.measured],
            "not_run": [asdict(cell) for cell in self.not_run],
            "problems": [asdict(problem) for problem in self.problems],
        }

    @classmethod
    def from_config(cls, printed: Printed, config: Mapping[str, Any]) -> "TableResult":
        """Build it again from :meth:`config`.

        Raises:
            KeyError: If a part is missing.
            TypeError: If a field is unknown or missing.

        Example:
            >>> from sppnet.paper.printed import TABLE_3
            >>> result = TableResult(TABLE_3, [Measured("ZF-5, single-size trained", "1 full", 40)])
            >>> TableResult.from_config(TABLE_3, result.config()) == result
            True
        """
        return cls(
            printed,
            [Measured(**cell) for cell in config["measured"]],
            [NotRun(**cell) for cell in config["not_run"]],
            [Problem(**problem) for problem in config["problems"]],
        )

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


@dataclass(frozen=True)
class Claim(PaperTable):
    """A claim of the paper, and how it is measured.

    Args:
        seconds: About as long as it takes one thread, for the plan.
        on_boxes: Whether it is measured on the images with boxes.
    """

    seconds: Callable[[Resources], float] = lambda _: 60.0
    on_boxes: bool = False

    @property
    def claim(self) -> PrintedClaim:
        """What is printed.

        Raises:
            TypeError: If it is an ordinary table.
        """
        if not isinstance(self.printed, PrintedClaim):
            raise TypeError(f"printed must be a claim, got {self.printed.title!r}")
        return self.printed

    def verdict(self, result: TableResult) -> str:
        """Say in words whether it holds here; a claim that was not measured is "left out".

        Example:
            >>> from sppnet.paper.printed import CLAIM_PYRAMID
            >>> claim = Claim(CLAIM_PYRAMID, lambda *_: iter([]))
            >>> result = TableResult(CLAIM_PYRAMID)
            >>> for cell in compare(CLAIM_PYRAMID, [80.0, 82.0], [83.0, 84.0]):
            ...     result.add(cell)
            >>> claim.verdict(result)
            'holds here'
        """
        found = [cell for cell in result.measured if cell.row == self.claim.gain_row]
        if not found:
            return "left out"
        gain = found[0].value - self.claim.no_gain
        spread = found[0].deviation
        if spread is None:
            return "measured once: no deviation to judge by"
        if gain < -spread:
            return "does not hold here" if self.claim.is_as_good else "the opposite here"
        if gain > spread:
            return "holds here"
        if self.claim.is_as_good:
            return "holds here: no loss beyond the deviation"
        return "not seen here: the gain is within its deviation"


def compare(
    claim: PrintedClaim, old: Sequence[float], new: Sequence[float], **about: Any
) -> Iterator[Measured]:
    """Sum up the same measurements of the old and of the new way: means and deviations.

    The gain is taken split by split (seed by seed, image by image), so that what the splits have in
    common does not blur it.

    Args:
        claim: What is compared.
        old: One number for each split.
        new: As many.
        about: What else :class:`Measured` says of all three.

    Yields:
        The old way, the new way, and the gain; the deviation is the standard deviation of a sample.

    Example:
        >>> from sppnet.paper.printed import CLAIM_PYRAMID
        >>> cells = compare(CLAIM_PYRAMID, [80.0, 82.0], [83.0, 84.0])
        >>> [(cell.value, round(cell.deviation, 2)) for cell in cells]
        [(81.0, 1.41), (83.5, 0.71), (2.5, 0.71)]
    """
    values = dict(zip(claim.ways, (old, new), strict=True))
    values[claim.gain_row] = claim.gains(old, new)
    for row, each in values.items():
        value = mean(each)
        if row == claim.gain_row:  # of the means: the mean of ratios would favour the large ones
            value = claim.gains([mean(old)], [mean(new)])[0]
        spread = stdev(each) if len(each) > 1 else None
        yield Measured(row, claim.columns[0], value, deviation=spread, **about)


def leave_out(claim: PrintedClaim, reason: str) -> Iterator[NotRun]:
    """Say of every number of a claim why it is not measured."""
    return (NotRun(row, claim.columns[0], reason) for row in claim.rows)

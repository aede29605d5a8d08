"""What a benchmark finds out: comparisons, growth, what was not run; and whether goals are met."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from sppnet.app.benchmark_timing import Timing


@dataclass(frozen=True)
class Goal:
    """What a ratio shall be.

    Args:
        limit: The least ratio, or the greatest.
        at_most: Whether it is the greatest.

    Example:
        >>> Goal(70).is_met(71.5), Goal(2.5, at_most=True).is_met(3), str(Goal(70))
        (True, False, '>= 70')
    """

    limit: float
    at_most: bool = False

    def is_met(self, value: float) -> bool:
        """Whether a value is on the right side."""
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.limit:g}"


@dataclass(frozen=True)
class Comparison:
    """Ours beside a peer, timed in the same turns.

    Args:
        case: Number of the case.
        what: What is done, on what.
        threads: Threads of both.
        ours: Our time.
        peer_name: What it is compared with.
        peer: Its time.
        goal: What the ratio shall be, if there is a goal.
        others: More times of the same turns.
        details: More about it.
    """

    case: str
    what: str
    threads: int
    ours: Timing
    peer_name: str
    peer: Timing
    goal: Goal | None = None
    others: Mapping[str, Timing] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times as fast we are; how many times as long we take if that has a most."""
        speed = self.peer.median_ms / self.ours.median_ms
        return 1 / speed if self.goal and self.goal.at_most else speed

    @property
    def is_unsteady(self) -> bool:
        """Whether one of the two times cannot be relied on."""
        return self.ours.is_unsteady or self.peer.is_unsteady

    def to_json(self) -> dict[str, Any]:
        """Everything, for the file."""
        judged = _judge(self.goal, self.ratio)
        return {**asdict(self), **judged, "ratio": self.ratio, "unsteady": self.is_unsteady}


@dataclass(frozen=True)
class Growth:
    """How the time grows along one axis.

    Args:
        case: Number of the case.
        axis: What grows.
        what: What stays.
        threads: Threads.
        points: Each with x, label, ms, fill_ms, megabytes, ms_per_mb and fill_ms_per_mb.
        slope: Fitted exponent of the time in x, where it has a meaning.
        goal: What the exponent shall be.
        unsteady: Points whose quartiles lie far apart.
    """

    case: str
    axis: str
    what: str
    threads: int
    points: Sequence[Mapping[str, Any]]
    slope: float | None = None
    goal: Goal | None = None
    unsteady: int = 0

    def to_json(self) -> dict[str, Any]:
        """Everything, for the file."""
        return {**asdict(self), **_judge(self.goal, self.slope)}


@dataclass(frozen=True)
class NotRun:
    """A case that this machine cannot run."""

    case: str
    what: str
    reason: str


@dataclass
class Results:
    """All that was measured, in the order of the cases."""

    comparisons: list[Comparison] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)
    sweep: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, found: "Results") -> None:
        """Append the results of one more case."""
        self.comparisons += found.comparisons
        self.growth += found.growth
        self.not_run += found.not_run
        self.sweep += found.sweep

    def verdicts(self) -> list[bool]:
        """Whether each goal is met."""
        judged = [(each.goal, each.ratio) for each in self.comparisons]
        judged += [(each.goal, each.slope or 0.0) for each in self.growth]
        return [goal.is_met(value) for goal, value in judged if goal]

    def to_json(self) -> dict[str, Any]:
        """Everything, for the file."""
        verdicts = self.verdicts()
        return {
            "goals": {"met": sum(verdicts), "missed": len(verdicts) - sum(verdicts)},
            "comparisons": [each.to_json() for each in self.comparisons],
            "growth": [each.to_json() for each in self.growth],
            "not_run": [asdict(each) for each in self.not_run],
            "sweep": self.sweep,
            "seconds": self.seconds,
        }


def _judge(goal: Goal | None, value: float | None) -> dict[str, Any]:
    """A goal and whether a value meets it, for the file."""
    if goal is None or value is None:
        return {"goal": None, "met": None}
    return {"goal": asdict(goal), "met": goal.is_met(value)}


def check_equal(what: str, ours: Tensor, theirs: Tensor) -> None:
    """Refuse to time two things that do not give the same numbers.

    Raises:
        RuntimeError: If they differ anywhere.

    Example:
        >>> check_equal("a case", torch.ones(2), torch.ones(2))
    """
    if torch.equal(ours, theirs):
        return
    if ours.shape != theirs.shape:
        rule = f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
    else:
        rule = f"{int((ours != theirs).sum())} of {ours.numel()} numbers differ"
    raise RuntimeError(f"{what}: ours must equal the peer before it is timed, got {rule}")

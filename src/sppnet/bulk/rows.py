"""What a photo gives as a row: detections, classes or vectors, or why it gives nothing.

A work (`Detecting`, `Naming`, `Describing`) is plain values: it travels to other machines together
with the files that it needs. Opened there, it is a `Look`: a loaded model, and the columns that it
fills.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from torch import Tensor

from sppnet.bulk.photos import Photo, load_photo
from sppnet.classification import (
    Classifier,
    ImageClassifier,
    TransferClassifier,
    load_classifier,
    rank_scores,
)
from sppnet.classification.network import pool_images
from sppnet.detection import Detector, ExternalProposals
from sppnet.detection.combined import AnyDetector, load_detectors
from sppnet.detection.detector import MODEL_KIND
from sppnet.detection.watch import usual_thresholds
from sppnet.errors import InputError, MissingPackageError, Problem, SppnetError, UsageError
from sppnet.evaluation.operating_point import reaches
from sppnet.progress import work_ahead
from sppnet.storage import read_kind, sha256_file
from sppnet.storage.tensors import digest_of

if TYPE_CHECKING:
    import pyarrow

ROWS_VERSION = 1  # raise it whenever the same model gives other rows of the same photo
CRASHED = "E_CRASHED"
Row = dict[str, Any]


def require_packages(*names: str) -> None:
    """Say now what has to be installed.

    Args:
        names: Of modules, such as ``"pyarrow"``.

    Raises:
        MissingPackageError: If one is missing; names the install command.

    Example:
        >>> require_packages("json")
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise MissingPackageError(f"this needs {', '.join(missing)}: pip install 'sppnet[ray]'")


@dataclass(frozen=True)
class Look:
    """A model that is loaded, ready to look at one photo after the other.

    Args:
        about: Plain values that a row depends on besides the photo; rows of different ones never
            get into one table.
        names: Of the classes; none for vectors.
        columns: Which columns it fills: by name, the type as :func:`arrow_type` reads it.
        row: From the path and the pixels (3, H, W) of a photo to the values of these columns.
    """

    about: dict[str, Any]
    names: tuple[str, ...]
    columns: Mapping[str, str]
    row: Callable[[str, Tensor], Row]


class Work(Protocol):
    """What is to be done with photos, as plain values."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Folders of models and files that it reads when it is opened."""
        ...

    def moved(self, files: Sequence[Path]) -> Self:
        """The same work with its files in other places, in the same order."""
        ...

    def open(self, device: str | torch.device) -> Look:
        """Load the model."""
        ...


@dataclass(frozen=True)
class Detecting:
    """Find things: a detector, or several as one, on whole photos.

    Args:
        models: Folders of the detectors.
        overrides: Fields of their ``InferenceConfig`` to change.
        proposals: File of proposals; None if the detectors search for them.
        least: Least score that is reported; None for all, and for the operating point to say what
            counts.
    """

    models: tuple[Path, ...]
    overrides: Mapping[str, Any] = field(default_factory=dict)
    proposals: Path | None = None
    least: float | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The folders of the detectors, then the file of proposals."""
        return self.models if self.proposals is None else (*self.models, self.proposals)

    def moved(self, files: Sequence[Path]) -> "Detecting":
        """The same work with its files in other places."""
        count = len(self.models)
        proposals = None if self.proposals is None else files[count]
        return replace(self, models=tuple(files[:count]), proposals=proposals)

    def open(self, device: str | torch.device) -> Look:
        """Load the detectors.

        Args:
            device: Where to compute.

        Returns:
            Columns ``boxes`` (K, 4) xyxy in pixels, ``scores``, ``labels``, ``names``,
            ``confidence`` and ``counts`` (does it count by the operating point?), best first.

        Raises:
            UnusableFileError: If a folder is no detector, or the file is none of proposals.
            ValueError: If the detectors have different classes, or an override is out of range.
        """
        detector = load_detectors(self.models, device, self.overrides)
        external = None if self.proposals is None else ExternalProposals.open(self.proposals)
        given, usual = self.least, usual_thresholds(detector)
        least = usual if given is None else (given,) * len(detector.names)
        about = {
            "kind": "detections",
            "model": digest_of(detector.config(), detector.tensors()),
            "proposals": None if self.proposals is None else sha256_file(self.proposals),
            "least": given,
        }
        columns = {
            "boxes": "list<list<float32>>",
            "scores": "list<float32>",
            "labels": "list<int32>",
            "names": "list<string>",
            "confidence": "list<float32>",
            "counts": "list<bool>",
        }

        def row(path: str, pixels: Tensor) -> Row:
            size_hw = (pixels.shape[1], pixels.shape[2])
            boxes = None if external is None else external.look_up(path, size_hw)
            return _detections_row(detector, pixels, boxes, least, given is not None)

        return Look(about, detector.names, columns, row)


def _detections_row(
    detector: AnyDetector,
    pixels: Tensor,
    boxes: Tensor | None,
    least: Sequence[float],
    only_counted: bool,
) -> Row:
    """What a detector finds in one photo; with (E, 4) proposals of a file, or None."""
    encoded = detector.encode(pixels)
    found = detector.detect(encoded, detector.propose(pixels, encoded, boxes))
    if only_counted:
        found = found.select(reaches(found, least))
    points = detector.operating_points
    sure = None if points is None else points.with_confidence(found).confidence
    labels = found.labels.tolist()
    return {
        "boxes": list(found.boxes.cpu().numpy()),
        "scores": found.scores.cpu().numpy(),
        "labels": labels,
        "names": [detector.names[label] for label in labels],
        "confidence": None if sure is None else sure.cpu().numpy(),
        "counts": reaches(found, least).tolist(),
    }


@dataclass(frozen=True)
class Naming:
    """Name whole photos by a classifier.

    Args:
        model: Folder of a classifier of any kind.
        view: Views to score and average, by name; None is the model's own.
        short_side: Of whole images, in pixels; None is the model's own.
        top: How many classes a row has, the best first.
    """

    model: Path
    view: str | None = None
    short_side: int | None = None
    top: int = 5

    @property
    def files(self) -> tuple[Path, ...]:
        """The folder of the classifier."""
        return (self.model,)

    def moved(self, files: Sequence[Path]) -> "Naming":
        """The same work with its model in another place."""
        return replace(self, model=files[0])

    def open(self, device: str | torch.device) -> Look:
        """Load the classifier.

        Args:
            device: Where to compute.

        Returns:
            Columns ``names``, ``labels`` and ``scores``, as many as ``top``, and ``confidence`` of
            the first; none where scores are margins.

        Raises:
            UnusableFileError: If the folder is no classifier.
            ValueError: If there is no such view, or the model has none to choose.
        """
        classifier = load_classifier(self.model, device)
        if isinstance(classifier, Classifier):
            chosen = classifier.resolve_view(self.view, self.short_side)
        elif self.view is None and self.short_side is None:
            chosen = None
        else:
            raise ValueError("--view and --imgsz are for networks; this model's recipe has its own")
        about = {
            "kind": "classes",
            "model": classifier.digest(),
            "view": "own" if chosen is None else chosen.config(),
            "top": self.top,
        }
        columns = {
            "names": "list<string>",
            "labels": "list<int32>",
            "scores": "list<float32>",
            "confidence": "float32",
        }

        def row(path: str, pixels: Tensor) -> Row:  # noqa: ARG001
            [scores] = classifier.score_images([pixels], chosen)
            return _classes_row(classifier, scores, self.top)

        return Look(about, classifier.names, columns, row)


def _classes_row(classifier: ImageClassifier, scores: Tensor, top: int) -> Row:
    """The best classes of one photo by its (K,) scores."""
    best = rank_scores(scores, top)
    labels = best["labels"].tolist()
    is_probability = classifier.score_kind == "probability"
    return {
        "names": [classifier.names[label] for label in labels],
        "labels": labels,
        "scores": best["scores"].numpy(),
        "confidence": float(best["scores"][0]) if is_probability else None,
    }


@dataclass(frozen=True)
class Describing:
    """Turn photos, or regions of them, into vectors of one length.

    Args:
        model: Folder of a classifier or a detector.
        regions: None for whole photos, ``"proposals"`` for what the detector proposes, or a file of
            proposals.
        most: The most regions of a photo; the first ones are taken.
    """

    model: Path
    regions: Path | str | None = None
    most: int = 100

    @property
    def files(self) -> tuple[Path, ...]:
        """The folder of the model, then the file of regions."""
        return (self.model, self.regions) if isinstance(self.regions, Path) else (self.model,)

    def moved(self, files: Sequence[Path]) -> "Describing":
        """The same work with its files in other places."""
        regions = files[1] if isinstance(self.regions, Path) else self.regions
        return replace(self, model=files[0], regions=regions)

    def open(self, device: str | torch.device) -> Look:
        """Load the model.

        Of a classifier a vector is the row that its head multiplies, before any scaling to one
        length: ``classifier.score_rows`` takes it. Of a detector it is what its SVMs multiply, of
        the whole photo or of each region.

        Args:
            device: Where to compute.

        Returns:
            Column ``vector`` (D,), or ``boxes`` (K, 4) xyxy in pixels and ``vectors`` (K, D).

        Raises:
            UnusableFileError: If the folder is no model.
            ValueError: If regions are asked of a classifier.
        """
        if read_kind(self.model) == MODEL_KIND:
            return self._open_detector(device)
        if self.regions is not None:
            raise ValueError("vectors of regions need a detector; MODEL is a classifier")
        classifier = load_classifier(self.model, device)
        about = {"kind": "vectors", "model": classifier.digest(), "regions": None}

        def row(path: str, pixels: Tensor) -> Row:  # noqa: ARG001
            return {"vector": features_of(classifier, pixels).numpy()}

        return Look(about, (), {"vector": "list<float32>"}, row)

    def _open_detector(self, device: str | torch.device) -> Look:
        """Load a detector, whose encoder gives the vectors."""
        detector = Detector.load(self.model, device)
        file = self.regions
        external = ExternalProposals.open(file) if isinstance(file, Path) else None
        whole = file is None
        about = {
            "kind": "vectors",
            "model": digest_of(detector.config(), detector.tensors()),
            "regions": sha256_file(file) if isinstance(file, Path) else file,
            "most": None if whole else self.most,
        }

        def row(path: str, pixels: Tensor) -> Row:
            size_hw = height, width = pixels.shape[1], pixels.shape[2]
            encoded = detector.encode(pixels)
            if whole:
                boxes = torch.tensor([[0.0, 0.0, width, height]])
                return {"vector": detector.encoder.describe(encoded, boxes)[0].cpu().numpy()}
            boxes = (
                detector.propose(pixels, encoded)
                if external is None
                else external.look_up(path, size_hw)
            )[: self.most]
            vectors = detector.encoder.describe(encoded, boxes).cpu()
            return {"boxes": list(boxes.numpy()), "vectors": list(vectors.numpy())}

        columns = {"boxes": "list<list<float32>>", "vectors": "list<list<float32>>"}
        return Look(about, (), {"vector": "list<float32>"} if whole else columns, row)


def features_of(classifier: ImageClassifier, pixels: Tensor) -> Tensor:
    """The vector of a photo that a classifier's head takes.

    Args:
        classifier: A network or frozen features with SVMs.
        pixels: (3, H, W), RGB 0..1 or bytes.

    Returns:
        (D,) float32 on the CPU.

    Raises:
        ValueError: If the classifier is of another kind.
    """
    if isinstance(classifier, TransferClassifier):
        return classifier.encoder.encode([pixels])[0]
    if isinstance(classifier, Classifier):
        network = classifier.network
        return pool_images(network.backbone, network.pool, [classifier.view.apply(pixels)])[0]
    raise ValueError(f"classifier must be a network or features, got {type(classifier).__name__}")


def arrow_type(words: str) -> "pyarrow.DataType":
    """The type that words name: ``list<list<float32>>``, ``string``, ``bool``, ...

    Example:
        >>> arrow_type("list<list<float32>>")
        ListType(list<item: list<item: float>>)
    """
    import pyarrow

    if words.startswith("list<"):
        return pyarrow.list_(arrow_type(words[5:-1]))
    return pyarrow.type_for_alias(words)


OF_EVERY_PHOTO = MappingProxyType(
    {
        "path": "string",
        "error": "string",
        "code": "string",
        "number": "int64",
        "bytes": "int64",
        "height": "int32",
        "width": "int32",
    }
)


def schema_of(look: Look) -> "pyarrow.Schema":
    """The columns of a table: those of every photo, then those of the look."""
    import pyarrow

    columns = OF_EVERY_PHOTO | look.columns
    return pyarrow.schema([(name, arrow_type(words)) for name, words in columns.items()])


def look_at(look: Look, paths: Sequence[str]) -> "pyarrow.Table":
    """Look at photos one after the other, while the next one is read and decoded.

    Args:
        look: The model.
        paths: Files and addresses.

    Returns:
        A row for each photo, in order; one that cannot be used has ``error`` and ``code``, and
        nothing in the columns of the look.

    Raises:
        SppnetError: If the work itself cannot be done, whatever the photo.
    """
    import pyarrow

    rows = [_row_of(look, path, ready) for path, ready in work_ahead(paths, load_photo)]
    return pyarrow.Table.from_pylist(rows, schema=schema_of(look))


def _row_of(look: Look, path: str, ready: Future[Photo]) -> Row:
    """The row of a photo, which is being read."""
    try:
        photo = ready.result()
        _, height, width = photo.pixels.shape
        found = {"number": photo.number, "bytes": photo.size, "height": height, "width": width}
        return {"path": path, **found, **look.row(path, photo.pixels)}
    except InputError as error:
        return {"path": path, "error": error.message, "code": error.code}
    except SppnetError:
        raise
    except Exception as error:  # one photo in a million ends nothing
        words = f"{type(error).__name__}: {error}".splitlines()[0]
        return {"path": path, "error": words, "code": SppnetError.default_code}


def rows_of_crashed(look: Look, paths: Sequence[str]) -> "pyarrow.Table":
    """Rows of photos at which every process that looked at them died.

    Args:
        look: The model.
        paths: Files and addresses.
    """
    import pyarrow

    words = "the process that looked at it died each time"
    rows = [{"path": path, "error": words, "code": CRASHED} for path in paths]
    return pyarrow.Table.from_pylist(rows, schema=schema_of(look))


def problems_of(table: "pyarrow.Table") -> Iterator[tuple[str, Problem | None]]:
    """Each photo of a table, with what is wrong with it; None for a good one."""
    columns = (table.column(name).to_pylist() for name in ("path", "error", "code"))
    for path, error, code in zip(*columns, strict=True):
        yield path, None if error is None else Problem(path, error, code)


def check_open(work: Work, device: str | torch.device) -> Look:
    """Open a work where its words were given, so that what is wrong is said there.

    Args:
        work: What is to be done.
        device: Where to compute.

    Returns:
        The look.

    Raises:
        UsageError: If values do not fit each other or the model.
        UnusableFileError: If a file cannot be used.
    """
    require_packages("pyarrow")
    try:
        return work.open(device)
    except (ValueError, TypeError) as problem:
        raise UsageError(str(problem)) from problem

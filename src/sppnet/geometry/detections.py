"""What a detector returns for one image, and how other libraries write the same."""

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from sppnet.errors import MissingPackageError
from sppnet.geometry.boxes import check_boxes, reject_rows

if TYPE_CHECKING:
    import pandas as pd


class Detections(dict[str, Tensor]):
    """Boxes, scores and labels of one image: a plain dict, checked when it is made.

    Args:
        boxes: (K, 4) xyxy in pixels of the original image, x2 and y2 exclusive.
        scores: (K,) floating point, finite.
        labels: (K,) integers 0..classes-1.
        confidence: (K,) probabilities 0..1 that each is right, if a calibration gave them.

    Raises:
        TypeError: If boxes or scores are not floating-point tensors, or labels not a tensor of
            integers.
        ValueError: If the counts differ, a value is not finite in float32, a box is reversed, a
            label is negative, or a confidence is not 0..1; names the row.

    Example:
        >>> box = torch.tensor([[0.0, 0.0, 4.0, 2.0]])
        >>> found = Detections(box, torch.tensor([0.9]), torch.tensor([3]))
        >>> found
        Detections(1 of class 3; scores 0.90 to 0.90)
        >>> found["boxes"].shape, found.labels.tolist(), found.count
        (torch.Size([1, 4]), [3], 1)
        >>> found.confidence is None
        True
        >>> Detections.empty().count
        0

    Source:
        The names and the half-open pixels are those of torchvision's detection models.
    """

    def __init__(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, confidence: Tensor | None = None
    ) -> None:
        for name, values, integral in (("scores", scores, False), ("labels", labels, True)):
            _check_kind(name, values, integral)
        more = {} if confidence is None else {"confidence": confidence}
        for name, values in more.items():
            _check_kind(name, values, False)
        check_boxes(boxes)
        for name, values in {"scores": scores, "labels": labels, **more}.items():
            if values.shape != boxes.shape[:1]:
                raise ValueError(
                    f"{name} must have shape ({len(boxes)},), got {tuple(values.shape)}"
                )
        # checked once more as float32, in which a large float64 is infinite
        boxes, scores = check_boxes(boxes.to(torch.float32)), scores.to(torch.float32)
        reject_rows(~scores.isfinite(), scores, "scores must be finite")
        reject_rows(labels < 0, labels, "labels must be 0 or more")
        for name, values in more.items():
            more[name] = values.to(torch.float32)
            reject_rows(~((values >= 0) & (values <= 1)), values, f"{name} must be 0..1")
        super().__init__(boxes=boxes, scores=scores, labels=labels.to(torch.int64), **more)

    @classmethod
    def empty(cls) -> "Detections":
        """Nothing found: shapes (0, 4), (0,) and (0,)."""
        return cls(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))

    @property
    def boxes(self) -> Tensor:
        """(K, 4) float32 xyxy in pixels."""
        return self["boxes"]

    @property
    def scores(self) -> Tensor:
        """(K,) float32."""
        return self["scores"]

    @property
    def labels(self) -> Tensor:
        """(K,) int64."""
        return self["labels"]

    @property
    def confidence(self) -> Tensor | None:
        """(K,) float32 0..1, or None if nothing was calibrated; then the key is missing, too."""
        return self.get("confidence")

    @property
    def sureness(self) -> Tensor:
        """(K,) float32 0..1: the confidence; where none was measured, scores count as log-odds."""
        return self.scores.sigmoid() if self.confidence is None else self.confidence

    @property
    def count(self) -> int:
        """How many things were found (``len`` counts the keys of the dict)."""
        return len(self["boxes"])

    def select(self, rows: Tensor) -> "Detections":
        """Take some rows, by index or by mask.

        Args:
            rows: (M,) int64 indices or (K,) bool.

        Returns:
            The detections of these rows, in the order of the indices.
        """
        sure = None if self.confidence is None else self.confidence[rows]
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows], sure)

    def to_torchvision(
        self, image_size: tuple[int, int] | None = None, *, first_label: int = 0
    ) -> dict[str, Tensor]:
        """Give what torchvision's detectors and torchmetrics take: boxes, scores and labels.

        Args:
            image_size: (height, width) in pixels; boxes are then ``tv_tensors.BoundingBoxes``,
                which torchvision's transforms move with the image.
            first_label: Label of class 0; torchvision's own detectors keep 0 for the background.

        Returns:
            A plain dict of boxes (K, 4) float32 xyxy in pixels, scores (K,) and labels (K,) int64.

        Example:
            >>> one = Detections(torch.rand(1, 4).sort().values, torch.ones(1), torch.tensor([2]))
            >>> one.to_torchvision(first_label=1)["labels"]
            tensor([3])
        """
        boxes = self.boxes
        if image_size is not None:
            kind = import_module("torchvision.tv_tensors").BoundingBoxes
            boxes = kind(boxes, format="XYXY", canvas_size=_check_size(image_size))
        return {"boxes": boxes, "scores": self.scores, "labels": self.labels + first_label}

    @classmethod
    def from_torchvision(cls, found: Mapping[str, Tensor], *, first_label: int = 0) -> "Detections":
        """Read what a torchvision detector gives for one image.

        Args:
            found: boxes (K, 4) xyxy in pixels, scores (K,), labels (K,).
            first_label: Label of class 0; 1 for torchvision's own detectors.

        Returns:
            The detections, on the CPU.

        Raises:
            TypeError: As of the class.
            ValueError: As of the class; a label below ``first_label``, too.

        Example:
            >>> found = Detections.empty().to_torchvision()
            >>> Detections.from_torchvision(found).count
            0
        """
        _check_parts(found, "found", ("boxes", "scores", "labels"))
        parts = [torch.as_tensor(found[name]) for name in ("boxes", "scores", "labels")]
        boxes, scores, labels = (each.detach().cpu().as_subclass(Tensor) for each in parts)
        return cls(boxes, scores, labels - first_label)

    def to_coco(
        self,
        image_id: int | str,
        category_ids: Sequence[int | str] | None = None,
    ) -> list[dict[str, Any]]:
        """Give the entries of a COCO results file, as pycocotools reads them.

        Args:
            image_id: Id of the image in the data set.
            category_ids: The id of each class; 1, 2, 3, ... if None.

        Returns:
            One dict a detection: image_id, category_id, bbox [x, y, width, height] in pixels, and
            score.

        Raises:
            ValueError: If a label has no id.

        Example:
            >>> box = torch.tensor([[1.0, 2.0, 5.0, 4.0]])
            >>> Detections(box, torch.tensor([0.5]), torch.tensor([0])).to_coco(7)
            [{'image_id': 7, 'category_id': 1, 'bbox': [1.0, 2.0, 4.0, 2.0], 'score': 0.5}]
        """
        if category_ids is not None:
            _check_labels(self.labels, category_ids, "category_ids")
        rows = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True)
        return [
            {
                "image_id": image_id,
                "category_id": label + 1 if category_ids is None else category_ids[label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for (x1, y1, x2, y2), score, label in rows
        ]

    @classmethod
    def from_coco(
        cls, entries: Iterable[Mapping[str, Any]], category_ids: Sequence[int | str] | None = None
    ) -> "Detections":
        """Read entries of a COCO results file; those of one image.

        Args:
            entries: Dicts with category_id, bbox [x, y, width, height] in pixels and score.
            category_ids: The id of each class; 1, 2, 3, ... if None.

        Returns:
            The detections in the order of the entries.

        Raises:
            ValueError: If a category is none of the ids, or as of the class.

        Example:
            >>> entry = {"image_id": 7, "category_id": 1, "bbox": [1, 2, 4, 2], "score": 0.5}
            >>> Detections.from_coco([entry]).boxes
            tensor([[1., 2., 5., 4.]])
        """
        listed = list(entries)
        label_of = {} if category_ids is None else {c: n for n, c in enumerate(category_ids)}
        labels = []
        for row, entry in enumerate(listed):
            _check_parts(entry, f"entries[{row}]", ("category_id", "bbox", "score"))
            if len(entry["bbox"]) != 4:
                raise ValueError(f"bbox must be four numbers, got {entry['bbox']} in row {row}")
            category = entry["category_id"]
            if category_ids is not None and category not in label_of:
                raise ValueError(
                    f"category_id must be one of {list(category_ids)}, got {category!r} "
                    f"in row {row}"
                )
            labels.append(category - 1 if category_ids is None else label_of[category])
        bboxes = [entry["bbox"] for entry in listed]
        boxes = torch.tensor(bboxes, dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scores = torch.tensor([float(entry["score"]) for entry in listed], dtype=torch.float64)
        return cls(boxes, scores, torch.tensor(labels, dtype=torch.int64))

    def to_supervision(self, names: Sequence[str] | None = None) -> Any:
        """Give a ``supervision.Detections``, for its annotators, trackers and zones.

        Args:
            names: Class names; they become ``data["class_name"]``, which annotators write.

        Returns:
            xyxy (K, 4), class_id (K,), and confidence (K,): the calibrated one, 0..1, where there
            is one, else the score. The score itself is in ``data["score"]``.


        Raises:
            MissingPackageError: If supervision is not installed.
            ValueError: If a label has no name.

        Example:
            >>> len(Detections.empty().to_supervision(("cat",)))
            0
        """
        supervision = _require("supervision")
        sure = self.scores if self.confidence is None else self.confidence
        data: dict[str, Any] = {"score": self.scores.numpy()}
        if names is not None:
            np = import_module("numpy")
            data["class_name"] = np.array(self._name(names), dtype=str)
        return supervision.Detections(
            xyxy=self.boxes.numpy(),
            confidence=sure.numpy(),
            class_id=self.labels.numpy(),
            data=data,
        )

    @classmethod
    def from_supervision(cls, found: Any) -> "Detections":
        """Read a ``supervision.Detections``, of this or of any other detector.

        Args:
            found: With class ids. Scores are ``data["score"]`` where there is such a thing, as
                :meth:`to_supervision` writes them, else ``confidence``, else 1.

        Returns:
            The detections.

        Raises:
            TypeError: If there are no class ids.
            ValueError: As of the class.

        Example:
            >>> Detections.from_supervision(Detections.empty().to_supervision()).count
            0
        """
        if not hasattr(found, "class_id"):
            raise TypeError(f"found must be supervision's Detections, got {type(found).__name__}")
        if found.class_id is None and len(found.xyxy):
            raise TypeError("class_id must be given for every detection, got None")
        boxes = torch.as_tensor(found.xyxy).to(torch.float32).reshape(-1, 4)
        labels = [] if found.class_id is None else found.class_id
        sure = None if found.confidence is None else torch.as_tensor(found.confidence).float()
        scores = torch.ones(len(boxes)) if sure is None else sure
        own = found.data.get("score") is not None
        if own:
            scores = torch.as_tensor(found.data["score"]).float()
        calibrated = own and sure is not None and not torch.equal(sure, scores)
        ids = torch.as_tensor(labels, dtype=torch.int64).reshape(-1)
        return cls(boxes, scores.reshape(-1), ids, sure if calibrated else None)

    def to_pandas(self, names: Sequence[str] | None = None) -> "pd.DataFrame":
        """Give a table with a row for each detection.

        Args:
            names: Class names; they become a column ``class``.

        Returns:
            A DataFrame with the columns label, class (with names), score, confidence (where there
            is one), x1, y1, x2, y2 in pixels.

        Raises:
            MissingPackageError: If pandas is not installed.
            ValueError: If a label has no name.

        Example:
            >>> list(Detections.empty().to_pandas(("cat",)).columns)
            ['label', 'class', 'score', 'x1', 'y1', 'x2', 'y2']
        """
        columns: dict[str, Any] = {"label": self.labels.numpy()}
        if names is not None:
            columns["class"] = self._name(names)
        columns["score"] = self.scores.numpy()
        if self.confidence is not None:
            columns["confidence"] = self.confidence.numpy()
        columns |= zip(("x1", "y1", "x2", "y2"), self.boxes.numpy().T, strict=True)
        return cast("pd.DataFrame", _require("pandas").DataFrame(columns))

    @classmethod
    def from_pandas(cls, table: "pd.DataFrame") -> "Detections":
        """Read a table with the columns label, score, x1, y1, x2, y2, and perhaps confidence.

        Returns:
            The detections in the order of the rows.

        Raises:
            ValueError: If a column is missing, or as of the class.

        Example:
            >>> Detections.from_pandas(Detections.empty().to_pandas()).count
            0
        """
        needed = ["label", "score", "x1", "y1", "x2", "y2"]
        if not hasattr(table, "columns"):
            raise TypeError(f"table must be a DataFrame, got {type(table).__name__}")
        if missing := [name for name in needed if name not in table.columns]:
            raise ValueError(f"table must have the columns {', '.join(needed)}, lacks {missing}")
        numbers = torch.tensor(table[needed[1:]].to_numpy(dtype="float64").copy())
        labels = torch.tensor(table["label"].to_numpy(dtype="int64").copy())
        sure = None
        if "confidence" in table.columns:
            sure = torch.tensor(table["confidence"].to_numpy(dtype="float64").copy())
        return cls(numbers[:, 1:], numbers[:, 0], labels, sure)

    def to_fiftyone(self, image_size: tuple[int, int], names: Sequence[str]) -> Any:
        """Give a ``fiftyone.Detections`` label, for a field of a sample.

        Args:
            image_size: (height, width) of the image in pixels.
            names: Class names, written as labels.

        Returns:
            Boxes [x, y, width, height] as shares of the image; confidence is the calibrated one
            where there is one, else the score; the score is an attribute of its own.

        Raises:
            MissingPackageError: If FiftyOne is not installed.
            ValueError: If a label has no name, or a side of the image is below 1.
        """
        height, width = _check_size(image_size)
        fiftyone = _require("fiftyone")
        sure = self.scores if self.confidence is None else self.confidence
        rows = zip(
            self._name(names), self.boxes.tolist(), sure.tolist(), self.scores.tolist(), strict=True
        )
        found = [
            fiftyone.Detection(
                label=name,
                bounding_box=[x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
                confidence=confidence,
                score=score,
            )
            for name, (x1, y1, x2, y2), confidence, score in rows
        ]
        return fiftyone.Detections(detections=found)

    @classmethod
    def from_fiftyone(
        cls, found: Any, image_size: tuple[int, int], names: Sequence[str]
    ) -> "Detections":
        """Read a ``fiftyone.Detections`` label.

        Args:
            found: With ``detections`` that have label, bounding_box and perhaps confidence (1 if
                not).
            image_size: (height, width) of the image in pixels.
            names: Class names; the label is the place in here.

        Returns:
            The detections, boxes in pixels.

        Raises:
            ValueError: If a label is none of the names, a side of the image is below 1, or as of
                the class.
        """
        height, width = _check_size(image_size)
        label_of = {name: n for n, name in enumerate(names)}
        rows, labels = [], []
        for row, each in enumerate(found.detections):
            if each.label not in label_of:
                raise ValueError(
                    f"label must be one of {list(names)}, got {each.label!r} in row {row}"
                )
            x, y, w, h = each.bounding_box
            sure = 1.0 if each.confidence is None else each.confidence
            rows.append([x * width, y * height, (x + w) * width, (y + h) * height, sure])
            labels.append(label_of[each.label])
        numbers = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)
        return cls(numbers[:, :4], numbers[:, 4], torch.tensor(labels, dtype=torch.int64))

    def _name(self, names: Sequence[str]) -> list[str]:
        """The class name of each detection."""
        _check_labels(self.labels, names, "names")
        return [names[label] for label in self.labels.tolist()]

    def __repr__(self) -> str:
        """Say how many there are, of which classes, and between which scores."""
        if not self.keys() >= {"boxes", "scores", "labels"}:  # in the middle of being copied
            return f"{type(self).__name__}({dict(self)})"
        if not self.count:
            return f"{type(self).__name__}(nothing found)"
        labels, counts = self.labels.unique(return_counts=True)
        pairs = zip(labels.tolist(), counts.tolist(), strict=True)
        classes = ", ".join(f"{count} of class {label}" for label, count in pairs)
        low, high = float(self.scores.min()), float(self.scores.max())
        sure = "" if self.confidence is None else ", with confidence"
        return f"{type(self).__name__}({classes}; scores {low:z.2f} to {high:z.2f}{sure})"


def _require(package: str) -> Any:
    """Import a package that is none of ours, or name the command that installs it."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise MissingPackageError(f"this needs {package}: pip install {package}") from error


def _check_parts(given: Any, name: str, needed: Sequence[str]) -> None:
    """Refuse what is no dict, or lacks an entry."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a dict, got {type(given).__name__}")
    if missing := [key for key in needed if key not in given]:
        raise ValueError(f"{name} must have {', '.join(needed)}, lacks {', '.join(missing)}")


def _check_labels(labels: Tensor, values: Sequence[Any], name: str) -> None:
    """Refuse labels that have no name or no id."""
    rule = f"{name} must have an entry for every label (0..{len(values) - 1})"
    reject_rows(labels >= len(values), labels, rule)


def _check_size(image_size: tuple[int, int]) -> tuple[int, int]:
    if isinstance(image_size, str) or not isinstance(image_size, Sequence) or len(image_size) != 2:
        raise ValueError(f"image_size must be (height, width), got {image_size!r}")
    height, width = image_size
    if height < 1 or width < 1:
        raise ValueError(f"image_size must be 1 or more on both sides, got {image_size}")
    return height, width


def _check_kind(name: str, values: Tensor, integral: bool) -> None:
    """Refuse what is not a tensor of integers, or not one of floating-point numbers."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(values).__name__}")
    if not integral and not values.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {values.dtype}")
    if integral and (
        values.is_floating_point() or values.is_complex() or values.dtype == torch.bool
    ):
        raise TypeError(f"{name} must be integers, got {values.dtype}")

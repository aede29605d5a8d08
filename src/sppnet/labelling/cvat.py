"""A detector or a classifier as an auto-annotation function of CVAT.

``cvat-cli task auto-annotate ID --function-module sppnet.labelling.cvat -p model=str:RUN/model``
fetches the photos of a task, asks this module what is on them, and sends the shapes back. A
detector answers with rectangles, a classifier with the tag of the likeliest class.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sppnet.classification.predict import load_classifier
from sppnet.detection import Detector
from sppnet.detection.watch import usual_thresholds
from sppnet.errors import MissingPackageError
from sppnet.evaluation.operating_point import reaches
from sppnet.progress import no_tracking
from sppnet.storage.models import read_kind

if TYPE_CHECKING:
    from sppnet.classification.classifier import ImageClassifier


def create(model: str, device: str = "cpu") -> "DetectorFunction | ClassifierFunction":
    """Make the function that CVAT calls.

    Args:
        model: Folder of a detector or of a classifier.
        device: Where to compute.

    Raises:
        MissingPackageError: If cvat-sdk is not installed.
        UnusableFileError: If the folder is no model, or damaged.
    """
    if read_kind(model) == "detector":
        return DetectorFunction(Detector.load(Path(model), device))
    return ClassifierFunction(load_classifier(model, device))


def _sdk() -> Any:
    try:
        from cvat_sdk import auto_annotation
    except ImportError:
        rule = "CVAT's functions need cvat-sdk: pip install 'sppnet[cvat]'"
        raise MissingPackageError(rule) from None
    return auto_annotation


class DetectorFunction:
    """Rectangles of what a detector finds.

    Args:
        detector: The detector.

    Attributes:
        spec: Its classes, as CVAT wants them told.

    Raises:
        MissingPackageError: If cvat-sdk is not installed.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector, self._sdk = detector, _sdk()
        self.spec = _spec(self._sdk, detector.names, "rectangle")

    def detect(self, context: Any, image: Image.Image) -> list[Any]:
        """Find things in a photo.

        Args:
            context: A ``DetectionFunctionContext``. With a ``conf_threshold``, what has at least
                that confidence counts; else what reaches the detector's operating point, and if it
                has none, a score of 0.
            image: The photo.

        Returns:
            A rectangle for each thing, in pixels, best first, with its confidence as ``score``. The
            confidence of a detector without an operating point is the sigmoid of its score.
        """
        found = self._detector.predict(image, track=no_tracking)
        sure = found.sureness
        if context.conf_threshold is None:
            kept = reaches(found, usual_thresholds(self._detector))
        else:
            kept = sure >= context.conf_threshold
        columns = (found.boxes[kept], found.labels[kept], sure[kept])
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [self._sdk.rectangle(label, box, score=score) for box, label, score in rows]


class ClassifierFunction:
    """The tag of the class that a classifier takes a photo for.

    Args:
        classifier: The classifier.

    Attributes:
        spec: Its classes, as CVAT wants them told.

    Raises:
        MissingPackageError: If cvat-sdk is not installed.
    """

    def __init__(self, classifier: "ImageClassifier") -> None:
        self._classifier, self._sdk = classifier, _sdk()
        self.spec = _spec(self._sdk, classifier.names, "tag")

    def detect(self, context: Any, image: Image.Image) -> list[Any]:
        """Name a photo.

        Args:
            context: A ``DetectionFunctionContext``; below its ``conf_threshold`` nothing is said.
                The confidence of a classifier of margins is the sigmoid of the margin.
            image: The photo.

        Returns:
            One tag, or none.
        """
        (best,) = self._classifier.predict([image], top=1)
        score = best["scores"][0]
        sure = float(score if self._classifier.score_kind == "probability" else score.sigmoid())
        if sure < (context.conf_threshold or 0):
            return []
        return [self._sdk.tag(int(best["labels"][0]))]


def _spec(sdk: Any, names: Sequence[str], kind: str) -> Any:
    """Classes by number."""
    labels = [sdk.label_spec(name, number, type=kind) for number, name in enumerate(names)]
    return sdk.DetectionFunctionSpec(labels=labels)

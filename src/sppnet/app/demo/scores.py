"""What the demo measured: shared by the measuring, the report and its figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sppnet.evaluation import ProposalRecall
from sppnet.geometry import Detections
from sppnet.images import LabelledImage

TRAINED, UNTRAINED, CHANCE = "trained", "untrained", "chance"
CONTENDERS = (TRAINED, UNTRAINED, CHANCE)
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class DemoScores:
    """What the demo measured, as its report shows it.

    Args:
        names: Classes.
        images: Held-out scenes with their truth.
        detections: By contender, then by image id.
        detector: By contender, what ``summarise_detections`` gives.
        classifier: By contender, what ``score_predictions`` gives; chance has top1 alone.
        curves: By contender, recall and precision over all classes together.
        class_curves: By class, recall and precision of the trained detector.
        proposals: How many objects the proposals cover.
        accuracy_by_size: Short side of the input and the top-1 of the one trained classifier there.
        num_test_images: Held-out images of the classifier.
        seconds_per_image: Of the trained detector, from the file to the boxes.
    """

    names: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    detections: Mapping[str, Mapping[Any, Detections]]
    detector: Mapping[str, Mapping[str, Any]]
    classifier: Mapping[str, Mapping[str, Any]]
    curves: Mapping[str, Curve]
    class_curves: Mapping[str, Curve]
    proposals: ProposalRecall
    accuracy_by_size: Mapping[int, float]
    num_test_images: int
    seconds_per_image: float

    def to_json(self) -> dict[str, Any]:
        """Everything but the curves, for metrics.json."""
        recall = self.proposals.recall
        return {
            "classifier": {name: dict(self.classifier[name]) for name in CONTENDERS},
            "detector": {name: dict(self.detector[name]) for name in CONTENDERS},
            "proposals": {
                "windows_per_image": self.proposals.mean_proposals,
                "recall50": float(recall[0.5][-1]),
                "recall70": float(recall[0.7][-1]),
            },
            "top1_by_short_side": {str(k): v for k, v in self.accuracy_by_size.items()},
            "names": list(self.names),
            "test_scenes": len(self.images),
            "test_objects": sum(len(image.labels) for image in self.images),
            "test_things": self.num_test_images,
            "seconds_per_image": self.seconds_per_image,
        }

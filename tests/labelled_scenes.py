"""Drawn photos to label, and constants with which that takes no time."""

from dataclasses import dataclass
from pathlib import Path

from sppnet import LabelSession
from sppnet.config.detection import DetectionConfig
from sppnet.images import LabelledImage

CONFIG = DetectionConfig(
    backbone="small5",
    weights="none",
    imgsz=(96,),
    proposals="grid",
    max_proposals=120,
    anchors=False,
    extra_positives=2,
    mirror="off",
    crops="off",
    operating_point=False,
)


@dataclass
class Photos:
    """A folder of drawn photos without labels, and the truth."""

    folder: Path
    truth: dict[str, LabelledImage]
    names: tuple[str, ...]

    def label(self, session: LabelSession, photo: str) -> None:
        image = self.truth[photo]
        names = [self.names[label] for label in image.labels.tolist()]
        session.set_boxes(photo, image.boxes, names)

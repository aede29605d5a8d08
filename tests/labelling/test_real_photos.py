"""On photos of real things one box is enough for a first suggestion."""

import shutil
from pathlib import Path

from sppnet import LabelSession
from sppnet.geometry import box_iou
from sppnet.images import open_detection_dataset


def test_one_box_finds_the_thing_on_the_next_photo(shared_data: Path, tmp_path: Path) -> None:
    dataset = open_detection_dataset(shared_data / "cards", "train")
    first, second = dataset[0], dataset[2]  # two photos of kings
    for image in (first, second):
        shutil.copyfile(image.path, tmp_path / image.path.name)
    with LabelSession.open(tmp_path, background=False) as session:
        session.set_boxes(first.path.name, first.boxes[:1], ["card"])
        session.refit()
        found = session.suggest(second.path.name)
    assert found.names[0] == "card"
    assert float(box_iou(found.boxes[:1], second.boxes).max()) > 0.5

"""COCO's numbers by the two reference implementations, on scenes of ``slow_average_precision``."""

import contextlib
import io
from typing import Any

from oracles.slow_average_precision import Thing

STATS = (
    *("AP", "AP50", "AP75", "APsmall", "APmedium", "APlarge"),
    *("AR1", "AR10", "AR100", "ARsmall", "ARmedium", "ARlarge"),
)


def xywh(thing: Thing) -> list[float]:
    """A box as COCO writes it."""
    x1, y1, x2, y2 = thing.box
    return [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]


def coco_tables(
    truth: list[Thing], found: list[Thing], images: int, classes: int, areas: list[float] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Truth and detections as COCO's dictionaries."""
    base = {
        "info": {},
        "images": [{"id": number} for number in range(images)],
        "categories": [{"id": label} for label in range(classes)],
    }

    def entry(number: int, thing: Thing) -> dict[str, Any]:
        box = xywh(thing)
        place = {"id": number, "image_id": thing.image, "category_id": thing.label, "bbox": box}
        return {**place, "area": box[2] * box[3], "score": thing.score, "iscrowd": int(thing.crowd)}

    objects = [entry(number, thing) for number, thing in enumerate(truth, start=1)]
    for annotation, area in zip(objects, areas or [], strict=False):
        annotation["area"] = area
    detections = [entry(number, thing) for number, thing in enumerate(found, start=1)]
    return {**base, "annotations": objects}, {**base, "annotations": detections}


def pycocotools_says(*scene: Any) -> Any:
    """The evaluation of pycocotools, after its summary."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _judged(COCO, COCOeval, *scene)


def faster_coco_eval_says(*scene: Any) -> Any:
    """The evaluation of faster-coco-eval, after its summary."""
    from faster_coco_eval import COCO, COCOeval_faster

    return _judged(COCO, COCOeval_faster, *scene)


def _judged(index: Any, evaluation: Any, *scene: Any) -> Any:
    """Run one of the two, which share their interface."""
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for content in coco_tables(*scene):
            side = index()
            side.dataset = content
            side.createIndex()
            sides.append(side)
        judge = evaluation(*sides, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge

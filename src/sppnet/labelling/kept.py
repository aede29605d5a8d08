"""What a session has learnt, kept on disk: opening again learns only what was edited since.

It is a copy of what the labels say, and no label depends on it: where it is damaged, of other
settings or of other versions of the program, it is not used, and all is learnt anew.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sppnet.detection.assign import Views
from sppnet.detection.heads.box_sums import BoxSums
from sppnet.detection.proposals.anchors import LearntAnchors
from sppnet.detection.train import cascade_config
from sppnet.errors import OutputError, UnusableFileError
from sppnet.evaluation.operating_point import OperatingPoints
from sppnet.labelling.drawn import said_of
from sppnet.labelling.learner import Learnt, WarmLearner, owners_of
from sppnet.labelling.loop import LearningLoop
from sppnet.storage import FeatureCache
from sppnet.storage.tensors import digest_of, read_parts, trim_heap, write_parts

FILE = "learnt"  # in the folder of the store
VERSION = 2  # raise it whenever what is kept means something else
UNUSABLE = (UnusableFileError, LookupError, RuntimeError, StopIteration, TypeError, ValueError)
Parts = Iterator[dict[str, Tensor]]


class KeptLearning:
    """Keeps what a loop has learnt in the folder of its store, and brings it back.

    Args:
        loop: What learns.

    Attributes:
        path: The file.
    """

    def __init__(self, loop: LearningLoop) -> None:
        self.loop, self.path = loop, loop.store.folder / FILE
        self._kept = ""  # version of the model that was kept last

    def keep(self) -> bool:
        """Write what is learnt now; edits and fits go on meanwhile.

        A full disk loses nothing but time at the next start.

        Returns:
            Whether there was something new.
        """
        with self.loop.lock:
            model, learner = self.loop.model, self.loop.learner
            if model is None or model.version == self._kept or self.loop.full is not None:
                return False
            about = torch.tensor(list(json.dumps(self._describe()).encode()), dtype=torch.uint8)
            parts = _parts_of(learner)
        if parts is None:
            return False
        with suppress(OutputError):
            write_parts(self.path, _chain({"about": about}, parts))
            self._kept = model.version
        trim_heap()
        return True

    def recall(self) -> bool:
        """Take up what was kept; photos that were edited or exchanged since are learnt anew.

        Returns:
            Whether there was something that could be used.
        """
        parts = read_parts(self.path)
        try:
            about = json.loads(bytes(next(parts)["about"].numpy()))
            if about["key"] != self._key():
                return False
        except UNUSABLE:
            return False
        with self.loop.lock:
            try:
                self._restore(about, parts)
            except UNUSABLE:
                self.loop.begin_anew()
                return False
            self._kept = self.loop.model.version if self.loop.model else ""
        return True

    def _restore(self, about: dict[str, Any], parts: Parts) -> None:
        loop, learner = self.loop, self.loop.learner
        _restore(learner, about["names"], parts)
        learner.numbers = {loop.folder / each["photo"]: each["number"] for each in about["photos"]}
        gone = []
        for each in about["photos"]:
            photo = each["photo"]
            if each["views"] and not self._take_up(each):
                gone.append(each["number"])
            elif each["unfinished"]:
                loop.unfinished = photo
        owners = {owner for number in gone for owner in owners_of(number)}
        if gone and learner.miner is not None and learner.boxes is not None:
            learner.miner.drop(owners)
            for owner in owners:
                learner.boxes.drop(owner)
        learner.share_images()
        loop.mined = set(about["mined"])
        loop.is_polished = about["polished"] and not gone
        if about["points"] is not None:
            loop.points = OperatingPoints.from_config(about["points"], len(about["names"]))
        if about.get("thing_points") is not None:
            loop.thing_points = OperatingPoints.from_config(about["thing_points"], 1)
        if learner.is_ready and learner.learnt:
            loop.publish()
        loop.sync(every=True)

    def _take_up(self, each: dict[str, Any]) -> bool:
        """Let a photo count as learnt, unless labels or file are others than they were."""
        loop, photo = self.loop, each["photo"]
        labels = loop.store.labels(photo)
        said = (tuple(each["boxes"]), tuple(each["classes"]))
        is_same = said_of(labels) == said and _stamp(loop.folder / photo) == each["stamp"]
        image = loop.image(labels) if is_same and photo in loop.places else None
        if image is None:
            return False
        views = list(Views(mirror=True, crops=True).of(image))
        views = [views[place] for place in each["views"]]
        known = Learnt(views, each["unfinished"], each["number"])
        loop.learner.learnt[image.path] = known
        return True

    def _describe(self) -> dict[str, Any]:
        """All that is not tensors."""
        loop, learner = self.loop, self.loop.learner
        photos = []
        for path, number in learner.numbers.items():
            known = learner.learnt.get(path)
            row = {"photo": path.relative_to(loop.folder).as_posix(), "number": number}
            row |= {"views": [], "unfinished": False}
            if known is not None:
                boxes, classes = loop.learnt_of(known.image)
                views = [known.owner_of(view) - owners_of(number)[0] for view in known.views]
                row |= {"views": views, "unfinished": known.unfinished}
                row |= {"boxes": boxes, "classes": classes, "stamp": _stamp(path)}
            photos.append(row)
        return {
            "key": self._key(),
            "names": list(learner.names),
            "photos": photos,
            "mined": sorted(loop.mined),
            "polished": loop.is_polished,
            "points": None if loop.points is None else loop.points.config(),
            "thing_points": None if loop.thing_points is None else loop.thing_points.config(),
        }

    def _key(self) -> str:
        """Whatever else decides what is learnt."""
        encoder = self.loop.learner.cached.encoder
        settings = {"config": asdict(self.loop.config), "encoder": encoder.config()}
        text = json.dumps(settings, sort_keys=True, default=str)
        trunk = digest_of(None, encoder.backbone.state_dict())
        return FeatureCache.make_key(kind="learnt", version=VERSION, settings=text, trunk=trunk)


def _stamp(path: Path) -> list[int]:
    """Size and time of a file; empty if it is gone."""
    try:
        about = path.stat()
    except OSError:
        return []
    return [about.st_size, about.st_mtime_ns]


def _chain(first: dict[str, Tensor], rest: Parts) -> Parts:
    yield first
    yield from rest


def _parts_of(learner: WarmLearner) -> Parts | None:
    """All that was learnt, as it is now, in parts; None if that is nothing."""
    if learner.miner is None or learner.boxes is None:
        return None
    miner, boxes, anchors = learner.miner.copy(), learner.boxes.copy(), learner.cached.anchors
    first = {
        "scale": torch.tensor(learner.scale, dtype=torch.float64),
        "counts": torch.tensor([learner.anchor_photos, learner.landmark_photos]),
    }
    learnt = {} if anchors is None else anchors.tensors()

    def parts() -> Parts:
        yield first
        yield learnt
        yield from boxes.parts()
        yield from miner.parts()

    return parts()


def _restore(learner: WarmLearner, names: list[str], parts: Parts) -> None:
    """Let a learner that has learnt nothing yet go on from what was kept."""
    learner.names = tuple(names)
    first, anchors = next(parts), next(parts)
    learner.scale = float(first["scale"])
    if anchors:
        proposer = learner.new_proposer()
        proposer.learnt_ = LearntAnchors(**anchors)
        learner.cached.use_anchors(proposer)
    learner.anchor_photos, learner.landmark_photos = first["counts"].tolist()
    config, encoder = cascade_config(learner.config), learner.cached.encoder
    learner.boxes = BoxSums.restored(parts, encoder, len(names), config, learner.config.seed)
    learner.miner = learner.new_miner()
    learner.miner.restore(parts)

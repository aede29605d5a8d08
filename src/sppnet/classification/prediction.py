"""Saved classifiers of every kind, and their scores for many files.

A run that was killed goes on where it stopped.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sppnet.classification.classifier import KIND, AnyView, Classifier
from sppnet.classification.features import FeatureSet, RowMaker, make_rows
from sppnet.classification.transfer import KIND as TRANSFER_KIND
from sppnet.classification.transfer import TransferClassifier
from sppnet.classification.views import View
from sppnet.errors import Track, UnusableFileError, no_tracking
from sppnet.storage import FeatureCache, read_json

ACCELERATOR_IMAGES = 8  # decoded photos that wait for an accelerator at a time


class ImageClassifier(Protocol):
    """What every saved classifier can do, whatever it was fitted with."""

    names: tuple[str, ...]
    score_kind: str
    seen: Tensor
    about: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    def score_images(self, images: Sequence[Tensor], view: AnyView = None) -> Tensor:
        """Score decoded images: n of (3, H, W) -> (n, K) float32 on the CPU."""
        ...

    def predict(
        self, images: Any, top: int | None = None, view: AnyView = None
    ) -> list[dict[str, Tensor]]:
        """Recognise images of any sizes and kinds."""
        ...

    def description(self) -> dict[str, Any]:
        """All but the numbers, as plain values."""
        ...

    def digest(self) -> str:
        """SHA-256 of all that its scores depend on."""
        ...


# Kind of a model folder -> what loads it onto a device.
LOADERS: dict[str, Callable[[Path, torch.device], ImageClassifier]] = {
    KIND: Classifier.load,
    TRANSFER_KIND: TransferClassifier.load,
}


def load_classifier(path: str | Path, device: str | torch.device = "cpu") -> ImageClassifier:
    """Read a saved classifier of any kind.

    Args:
        path: The folder.
        device: Where to put it.

    Returns:
        A classifier that predicts the same as the one that was saved.

    Raises:
        UnusableFileError: If a file is missing, damaged, of another kind or does not fit.
    """
    load = LOADERS.get(_read_kind(Path(path)), Classifier.load)
    return load(Path(path), torch.device(device))


def predict_files(
    classifier: ImageClassifier,
    paths: Sequence[str | Path],
    view: AnyView = None,
    *,
    cache: FeatureCache | None = None,
    track: Track = no_tracking,
) -> FeatureSet:
    """Score the classes of every image file.

    Args:
        classifier: What to predict with.
        paths: Image files of any sizes.
        view: What of an image is scored, as for ``Classifier.predict``; None is the model's own.
        cache: Where scores are kept under the file's content, the classifier and the view; None
            keeps nothing.
        track: Shows the progress over the images.

    Returns:
        Rows of scores (N, K) of the images that could be read, bit-equal to ``classifier.predict``
        on the CPU, and a finding for each of the others.
    """
    on_cpu = classifier.device.type == "cpu"
    maker = RowMaker(
        View("native"),
        lambda images: classifier.score_images(images, view),
        1 if on_cpu else ACCELERATOR_IMAGES,
        {
            "what": "scores",
            "classifier": classifier.digest(),
            "scored": _describe_view(view),
            "device": classifier.device.type,
        },
    )
    return make_rows(paths, maker, cache=cache, track=track, words="predicting")


def _describe_view(view: AnyView) -> str:
    """A view as text for a cache key; names count in what the classifier's digest covers."""
    if isinstance(view, str):
        return view
    return "own" if view is None else json.dumps(view.description(), sort_keys=True)


def _read_kind(folder: Path) -> str:
    """Kind of a model folder; what is wrong with a damaged one is said by its loader."""
    try:
        manifest = read_json(folder / "manifest.json")
    except UnusableFileError:
        return KIND
    return str(manifest.get("kind")) if isinstance(manifest, dict) else KIND

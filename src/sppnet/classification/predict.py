"""Loads a saved classifier of any kind, and scores many files with it.

With a cache, a run that was killed goes on where it stopped.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from sppnet.classification.classifier import AnyView, Classifier, ImageClassifier
from sppnet.classification.transfer.features import (
    FeatureSet,
    FileRow,
    ImageFunction,
    apply_to_files,
    rows_of_files,
)
from sppnet.classification.transfer.fit import TransferClassifier
from sppnet.classification.views import View
from sppnet.errors import Problem
from sppnet.progress import Track, no_tracking
from sppnet.storage import FeatureCache, read_kind

ACCELERATOR_IMAGES = 8  # decoded photos that wait for an accelerator at a time
KINDS: dict[str, type[ImageClassifier]] = {
    each.kind: each for each in (Classifier, TransferClassifier)
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
    return KINDS.get(read_kind(path), Classifier).load(path, device)


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
    function = scores_of(classifier, view)
    return apply_to_files(paths, function, cache=cache, track=track, words="predicting")


def predict_each(
    classifier: ImageClassifier,
    paths: Sequence[str | Path],
    view: AnyView,
    cache: FeatureCache,
    track: Track = no_tracking,
) -> Iterator[FileRow | Problem]:
    """Score the classes of every image file as :func:`predict_files` does, and keep nothing.

    Args:
        classifier: What to predict with.
        paths: Image files of any sizes.
        view: What of an image is scored; None is the model's own.
        cache: Where scores are kept: each row has its key there.
        track: Shows the progress over the images.

    Yields:
        In the order of the files, a row of scores (K,) or a finding.
    """
    function = scores_of(classifier, view)
    return rows_of_files(paths, function, cache=cache, track=track, words="predicting")


def scores_of(classifier: ImageClassifier, view: AnyView) -> ImageFunction:
    """The function from images to the scores of a classifier.

    Args:
        classifier: What to predict with.
        view: What of an image is scored; None is the model's own.
    """
    on_cpu = classifier.device.type == "cpu"
    depends_on: dict[str, str | int] = {
        "what": "scores",
        "classifier": classifier.digest(),
        "scored": _describe_view(view),
        "device": classifier.device.type,
        "threads": torch.get_num_threads(),  # they change the last bits
    }
    if isinstance(classifier, TransferClassifier) and view is None and on_cpu:
        encoder, finish = classifier.encoder, classifier.score_rows
        parts = (View("native"), encoder.encode, 1, depends_on, encoder.workers, finish)
        return ImageFunction(*parts, resizes=True)
    return ImageFunction(
        View("native"),
        lambda images: classifier.score_images(images, view),
        1 if on_cpu else ACCELERATOR_IMAGES,
        depends_on,
        resizes=True,
    )


def _describe_view(view: AnyView) -> str:
    """A view as text for a cache key; names count in what the classifier's digest covers."""
    if isinstance(view, str):
        return view
    return "own" if view is None else json.dumps(view.config(), sort_keys=True)

"""Scores of a classifier for many files; a run that was killed goes on where it stopped."""

from collections.abc import Sequence
from pathlib import Path

from sppnet.classification.classifier import Classifier
from sppnet.classification.features import (
    FeatureSet,
    RowMaker,
    batch_rows,
    digest_of,
    make_rows,
)
from sppnet.errors import Track, no_tracking
from sppnet.storage import FeatureCache


def predict_files(
    classifier: Classifier,
    paths: Sequence[str | Path],
    *,
    cache: FeatureCache | None = None,
    track: Track = no_tracking,
) -> FeatureSet:
    """Score the classes of every image file.

    Args:
        classifier: What to predict with.
        paths: Image files of any sizes.
        cache: Where scores are kept under the file's content and the classifier; None keeps
            nothing.
        track: Shows the progress over the images.

    Returns:
        Rows of scores (N, K) of the images that could be read, bit-equal to ``classifier.predict``
        on the CPU, and a finding for each of the others.
    """
    network = classifier.network
    maker = RowMaker(
        classifier.view,
        classifier.score_views,
        batch_rows(network),
        {
            "what": "scores",
            "classifier": digest_of(classifier.description(), network.state_dict()),
            "device": classifier.device.type,
        },
    )
    return make_rows(paths, maker, cache=cache, track=track, words="predicting")

"""What a fine-tuning leaves for the training that follows it."""

from dataclasses import dataclass
from typing import Any

from sppnet.detection.encoder import Encoder
from sppnet.detection.fc_plan import FcPlan
from sppnet.detection.fc_tuning import tune_head
from sppnet.detection.heads import RegionHead
from sppnet.detection.prepared import PreparedImages
from sppnet.detection.settings import DetectionSettings
from sppnet.detection.tuning import tune_network
from sppnet.detection.tuning_network import HeadBoxes
from sppnet.detection.tuning_plan import TuningPlan
from sppnet.detection.window_features import WindowFeatures
from sppnet.progress import Track, no_tracking
from sppnet.training.checkpoints import Checkpoints


@dataclass(frozen=True)
class TunedParts:
    """Parts of a network that were fine-tuned; None where nothing was.

    Args:
        head: fc6, fc7 and the logits.
        encoder: With a tuned trunk.
        boxes: Box regression behind fc7.
    """

    head: RegionHead | None = None
    encoder: Encoder | None = None
    boxes: HeadBoxes | None = None

    def features(self, settings: DetectionSettings) -> WindowFeatures:
        """What the SVMs are to see of a window."""
        layer = settings.layer_of_features
        return WindowFeatures(layer, None if layer == "pooled" else self.head)


def tune(
    prepared: PreparedImages,
    num_classes: int,
    settings: DetectionSettings,
    checkpoints: Checkpoints | None = None,
    track: Track = no_tracking,
) -> TunedParts:
    """Fine-tune the head, or the whole network, as the settings say.

    Args:
        prepared: Images with windows and maps in the cache.
        num_classes: K.
        settings: The constants.
        checkpoints: Where the state is kept and taken up again; None keeps none.
        track: Shows progress.

    Returns:
        The tuned parts.
    """
    shared: dict[str, Any] = {
        "updates": settings.tune_updates,
        "rate": settings.tune_rate,
        "use_difficult": settings.use_difficult,
        "widths": settings.widths,
        "ranks": settings.ranks,
        "seed": settings.seed,
    }
    if settings.tune == "head":
        head = tune_head(
            prepared, num_classes, FcPlan(**shared), checkpoints=checkpoints, track=track
        ).head
        return TunedParts(head)
    tuned = tune_network(
        prepared.usable,
        prepared.encoder,
        num_classes,
        TuningPlan(**shared, trainable_from=settings.tune_from),
        prepared.all_windows,
        checkpoints=checkpoints,
        track=track,
    )
    return TunedParts(tuned.head, tuned.encoder, tuned.boxes)

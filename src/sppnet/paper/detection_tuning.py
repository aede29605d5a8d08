"""Fine-tuning of fc6 and fc7 for tables 9 to 12, from the layers that were trained on ImageNet."""

from pathlib import Path

import torch

from sppnet.detection.feature_set import PreparedImages
from sppnet.detection.finetune.head import FcPlan, build_optimizer, tune_head
from sppnet.detection.heads.region_head import RegionHead
from sppnet.progress import Track
from sppnet.training.checkpoints import Checkpoints, TrainingState, pack_tensors

# Trained layers learn on at the rate of the 2014 code; new ones need a higher one.
TRAINED_RATE, NEW_RATE = 1e-3, 1e-2
CHECK_EVERY = 2000
BUDGET_BYTES = 4_000_000_000


def build_plan(updates: int, head: RegionHead, seed: int, *, is_trained: bool) -> FcPlan:
    """Make the plan of the 2014 code, with flips, shortened to some updates.

    Example:
        >>> build_plan(100, RegionHead(8, 2, (4, 4)), 0, is_trained=True).rate
        0.001
    """
    return FcPlan(
        updates=updates,
        check_every=min(CHECK_EVERY, max(1, updates // 4)),
        flip=True,
        widths=head.widths,
        rate=TRAINED_RATE if is_trained else NEW_RATE,
        budget_bytes=BUDGET_BYTES,
        seed=seed,
    )


def tune_layers(
    prepared: PreparedImages,
    head: RegionHead,
    plan: FcPlan,
    folder: Path,
    track: Track,
    *,
    is_trained: bool,
) -> RegionHead:
    """Fine-tune fc6 and fc7 on cached maps; a run that was killed goes on.

    Args:
        prepared: Images whose maps and windows are in the cache.
        head: Where to begin.
        plan: The constants.
        folder: For the state of the training.
        track: Shows the progress.
        is_trained: Whether the layers of ``head`` were trained; if not, new ones begin.

    Returns:
        The tuned head, in evaluation mode.

    Source:
        SPP-net, section 4.1.
    """
    checkpoints = Checkpoints(folder)
    if is_trained and checkpoints.newest() is None:
        tensors = pack_tensors(head, build_optimizer(head, plan), None)
        checkpoints.save(TrainingState(threads=torch.get_num_threads(), tensors=tensors))
    tuned = tune_head(prepared, head.num_classes, plan, checkpoints=checkpoints, track=track)
    return tuned.head

"""Pooled windows of many images, drawn once from cached maps, to teach fully connected layers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sppnet.detection.encoder import Encoder
from sppnet.detection.fc_plan import FcPlan
from sppnet.detection.prepared import PreparedImages, list_views
from sppnet.detection.window_sampling import draw_windows, label_windows
from sppnet.images import LabelledImage
from sppnet.progress import Track, no_tracking
from sppnet.training.seeds import seed_of


@dataclass(frozen=True)
class WindowPool:
    """Windows that batches are drawn from.

    Args:
        rows: (N, D) float16 pooled vectors.
        labels: (N,) class, or K for the background.
    """

    rows: Tensor
    labels: Tensor

    def batch(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors in float32 and labels of some windows."""
        return self.rows[places].float(), self.labels[places]


def gather_windows(
    prepared: PreparedImages,
    images: Sequence[LabelledImage],
    num_classes: int,
    plan: FcPlan,
    *,
    random_scale: bool = True,
    track: Track = no_tracking,
) -> WindowPool:
    """Draw windows of images and pool them from their cached maps.

    Every image draws from the seed and its own name only.

    Args:
        prepared: Gives maps and windows.
        images: Which images.
        num_classes: K.
        plan: How many windows, and what they are.
        random_scale: Draw the scale of each window, as in fine-tuning; otherwise the best one.
        track: Shows the progress.

    Returns:
        The windows of all images, one image after the other.

    Source:
        SPP-net, section 4.1; spp_finetune_voc.m of the authors' code.
    """
    encoder = prepared.encoder
    views = list_views(images, mirror=plan.flip)
    count, per_image = plan.share_out(len(views), encoder.length)
    draw = torch.Generator().manual_seed(seed_of(plan.seed, "images"))
    order = torch.randperm(len(views), generator=draw)[:count].tolist()
    rows = [torch.zeros(0, encoder.length, dtype=torch.float16)]
    labels = [torch.zeros(0, dtype=torch.int64)]
    for place in track(order, "gathering windows", total=count):
        image = views[place]
        encoded = prepared.encoded(image)
        boxes, drawn = _draw_boxes(prepared, image, (num_classes, per_image), plan)
        scale_of = _draw_scales(boxes, encoder, image, plan) if random_scale else None
        cells = encoder.locate(encoded, boxes, scale_of)
        rows.append(encoder.describe_cells(encoded, cells).half().cpu())
        labels.append(drawn)
    return WindowPool(torch.cat(rows), torch.cat(labels))


def _draw_boxes(
    prepared: PreparedImages,
    image: LabelledImage,
    sizes: tuple[int, int],
    plan: FcPlan,
) -> tuple[Tensor, Tensor]:
    """Windows of an image and what they show; ``sizes`` are K and how many windows."""
    num_classes, count = sizes
    boxes = torch.cat([image.boxes, prepared.all_windows(image)])
    labels = label_windows(boxes, image, num_classes, plan.rule, plan.use_difficult)
    draw = torch.Generator().manual_seed(seed_of(plan.seed, "windows", str(image.path)))
    chosen = draw_windows(labels, num_classes, count, plan.rule, draw)
    return boxes[chosen], labels[chosen]


def _draw_scales(boxes: Tensor, encoder: Encoder, image: LabelledImage, plan: FcPlan) -> Tensor:
    """One of the encoder's scales for each window, all equally likely."""
    draw = torch.Generator().manual_seed(seed_of(plan.seed, "scales", str(image.path)))
    return torch.randint(len(encoder.short_sides), (len(boxes),), generator=draw)

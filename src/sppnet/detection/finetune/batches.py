"""Hierarchical sampling: many proposals of few images, so that they share the convolutions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sppnet.detection.assign import (
    SamplingConfig,
    label_proposals,
    sample_proposals,
    target_boxes,
    trainable_objects,
)
from sppnet.geometry import boxes_to_deltas
from sppnet.images import LabelledImage
from sppnet.training.checkpoints import derive_seed

Proposals = Callable[[LabelledImage], Tensor]


@dataclass(frozen=True)
class ImageSample:
    """Proposals of one image that teach the network in one update.

    Args:
        image: (3, H, W) RGB 0..1, mirrored where that was drawn.
        short_side: Length that its short side gets.
        boxes: (P, 4) proposals, xyxy in pixels of ``image``.
        labels: (P,) class, or K for the background.
        deltas: (P, 4) from the proposals to their objects; zeros for the background.
    """

    image: Tensor
    short_side: int
    boxes: Tensor
    labels: Tensor
    deltas: Tensor


@dataclass(frozen=True)
class ProposalSampler:
    """Draws images, and proposals of them, by the number of the update alone.

    Nothing is remembered between updates: a training that goes on after a stop draws the same.

    Args:
        images: What to draw from, one or more.
        proposals: Gives the (P, 4) proposals of an image, xyxy in pixels.
        num_classes: K.
        sampling: Proposals of an update, how many are positive, and overlaps.
        images_per_update: Images that share these proposals.
        short_sides: One of these is drawn for each image.
        flip: Whether half of the images are mirrored.
        use_difficult: Whether objects marked difficult are positives.
        seed: Of everything that is drawn.

    Source:
        Fast R-CNN (Girshick 2015), section 2.3: 2 images, 64 proposals of each, a quarter of them
        positive, mirrored with probability 0.5.
    """

    images: Sequence[LabelledImage]
    proposals: Proposals
    num_classes: int
    sampling: SamplingConfig
    images_per_update: int = 2
    short_sides: tuple[int, ...] = (600,)
    flip: bool = True
    use_difficult: bool = False
    seed: int = 0

    def draw(self, update: int) -> list[ImageSample]:
        """Draw the samples of an update, 0 for the first; images take turns in a random order.

        An image without a proposal to learn from is left out.
        """
        first = update * self.images_per_update
        places = range(first, first + self.images_per_update)
        samples = [self._draw_image(place) for place in places]
        return [sample for sample in samples if len(sample.labels)]

    def fixed_sample(self, image: LabelledImage) -> ImageSample:
        """Draw the same proposals of an image each time, not mirrored, at the first size."""
        draw = torch.Generator().manual_seed(derive_seed(self.seed, "look", str(image.image_id)))
        return self._sample(image, draw, self.short_sides[0])

    def _draw_image(self, place: int) -> ImageSample:
        """Draw an image's proposals; ``place`` counts the images shown so far."""
        turn, index = divmod(place, len(self.images))
        shuffle = torch.Generator().manual_seed(derive_seed(self.seed, "order", turn))
        order = torch.randperm(len(self.images), generator=shuffle)
        draw = torch.Generator().manual_seed(derive_seed(self.seed, "windows", place))
        side = int(torch.randint(len(self.short_sides), (), generator=draw))
        is_mirrored = self.flip and bool(torch.rand((), generator=draw) < 0.5)
        chosen = self.images[int(order[index])]
        seen = chosen.mirror() if is_mirrored else chosen
        return self._sample(seen, draw, self.short_sides[side])

    def _sample(self, image: LabelledImage, draw: torch.Generator, short_side: int) -> ImageSample:
        """Choose proposals of an image and say what each of them shows."""
        objects = image.boxes[trainable_objects(image, self.use_difficult)]
        boxes = torch.cat([objects, self.proposals(image)])
        labels = label_proposals(boxes, image, self.num_classes, self.sampling, self.use_difficult)
        count = max(1, self.sampling.batch // self.images_per_update)
        rows = sample_proposals(labels, self.num_classes, count, self.sampling, draw)
        boxes, labels = boxes[rows], labels[rows]
        targets = target_boxes(boxes, image, labels, self.use_difficult)
        deltas = boxes_to_deltas(boxes, targets)
        return ImageSample(image.load(), short_side, boxes, labels, deltas)


def split_images(
    images: Sequence[LabelledImage], fraction: float, seed: int
) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Draw images for validation; the others are learnt from, and there is always one of them.

    Returns:
        Images to learn from, and images for validation; none of the latter if the fraction is 0.
    """
    count = min(round(fraction * len(images)), len(images) - 1)
    draw = torch.Generator().manual_seed(derive_seed(seed, "validation"))
    validation = set(torch.randperm(len(images), generator=draw)[:count].tolist())
    parts = [
        [image for i, image in enumerate(images) if (i in validation) == b] for b in (False, True)
    ]
    return parts[0], parts[1]

"""The ways to describe windows that ``detection_speed.py`` compares, each with a stop-watch."""

import copy

import torch
from torch import Tensor, nn

from sppnet.app.benchmark.peers import TextbookPyramid, roi_pool_pyramid, rows_to_boxes
from sppnet.backbones import Backbone
from sppnet.detection import Detector, EncodedImage, Encoder
from sppnet.detection.rcnn import CPU_BATCH, RcnnEncoder, warp_places
from sppnet.geometry import Detections
from sppnet.paper.detection_speed import StageClock
from sppnet.pooling import spatial_pyramid_pool

WARPING, CONVOLUTION, POOLING = "warping", "convolution", "pooling and products"
HEAD, SELECTION = "head", "suppression and boxes"
STAGES = (WARPING, CONVOLUTION, POOLING, HEAD, SELECTION)


class HalfTrunk(nn.Module):
    """Convolves in bfloat16 and gives float32 maps."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> Tensor:
        """Run the trunk on normalised images."""
        with torch.autocast(images.device.type, torch.bfloat16):
            maps: Tensor = self.trunk(images)
        return maps.float()


def prepare_trunk(backbone: Backbone, *, is_half: bool) -> Backbone:
    """Copy a trunk into the layout that is fastest for both ways, in float32 or bfloat16."""
    fast = copy.deepcopy(backbone).to(memory_format=torch.channels_last)
    if is_half:
        fast.trunk = HalfTrunk(fast.trunk)
    return fast


class TimedDetector(Detector):
    """A detector that tells the stages apart."""

    clock: StageClock

    def score(self, encoded: EncodedImage, boxes: Tensor) -> Tensor:
        """Judge windows."""
        with self.clock.stage(HEAD):
            return super().score(encoded, boxes)

    def run(self, image: Tensor, boxes: Tensor) -> tuple[Detections, StageClock]:
        """Encode and detect; what each stage took."""
        self.clock = self.encoder.clock = StageClock(self.encoder.device)
        encoded = self.encode(image)
        with self.clock.stage(SELECTION):
            found = self.detect(encoded, boxes)
        return found, self.clock


class TimedEncoder(Encoder):
    """SPP-net's way: one convolution per scale, windows pooled from the map."""

    clock: StageClock

    def encode(self, image: Tensor) -> EncodedImage:
        """Convolve an image."""
        with self.clock.stage(CONVOLUTION):
            return super().encode(image)

    def score_cells(self, encoded: EncodedImage, cells: Tensor, weights: Tensor) -> Tensor:
        """Pool windows and multiply them by a matrix."""
        with self.clock.stage(POOLING):
            return super().score_cells(encoded, cells, weights)


class RoiPoolEncoder(TimedEncoder):
    """The same maps, pooled by torchvision's ``roi_pool`` once for each level."""

    def describe_cells(self, encoded: EncodedImage, cells: Tensor) -> Tensor:
        """Pool windows of an image of one scale."""
        boxes = rows_to_boxes(cells).to(self.device)
        return roi_pool_pyramid(encoded.maps[0], boxes, self.levels)

    def score_cells(self, encoded: EncodedImage, cells: Tensor, weights: Tensor) -> Tensor:
        """Build all vectors, then multiply."""
        with self.clock.stage(POOLING):
            return self.describe_cells(encoded, cells) @ weights


class CropLoopEncoder(RoiPoolEncoder):
    """The same maps, cut out window by window."""

    def describe_cells(self, encoded: EncodedImage, cells: Tensor) -> Tensor:
        """Pool windows of an image of one scale."""
        textbook, (features,) = TextbookPyramid(self.levels), encoded.maps
        crops = [features[:, :, y0:y1, x0:x1] for _, x0, y0, x1, y1 in cells.tolist()]
        rows = [textbook(crop) for crop in crops]
        return torch.cat(rows) if rows else features.new_empty(0, self.length)


class TimedRcnnEncoder(RcnnEncoder):
    """R-CNN's way. It keeps its vectors, so that moving the boxes convolves nothing again.

    ``share`` of the windows, spread evenly, are really computed where that is below 1; the others
    get vectors of zeros, and the seconds are scaled up.
    """

    clock: StageClock
    share = 1.0
    _row_of: dict[tuple[int, ...], int]

    def encode(self, image: Tensor) -> EncodedImage:
        """Forget the windows of the image before."""
        self._row_of = {}
        return super().encode(image)

    def score_cells(self, encoded: EncodedImage, cells: Tensor, weights: Tensor) -> Tensor:
        """Warp, convolve, pool and score windows, a batch at a time."""
        if all(tuple(cell) in self._row_of for cell in cells.tolist()):
            return self.describe_cells(encoded, cells) @ weights
        self._vectors = encoded.maps[0].new_zeros(len(cells), self.length)
        self._row_of = {tuple(cell): row for row, cell in enumerate(cells.tolist())}
        chosen = torch.arange(0, len(cells), max(1, round(1 / self.share)))
        scale = len(cells) / max(len(chosen), 1)
        for rows in chosen.split(self.batch or CPU_BATCH):
            with self.clock.stage(WARPING, scale):
                pixels, colour = encoded.maps[0][0], self._mean_colour()
                crops = warp_places(pixels, cells[rows, 1:], self.size, colour)
            with self.clock.stage(CONVOLUTION, scale):
                maps = self.backbone(crops)
            with self.clock.stage(POOLING, scale):
                self._vectors[rows] = spatial_pyramid_pool(maps, self.levels)
        with self.clock.stage(POOLING):
            return self._vectors @ weights

    def describe_cells(self, encoded: EncodedImage, cells: Tensor) -> Tensor:  # noqa: ARG002
        """Look up the vectors of windows that were scored."""
        rows = [self._row_of[tuple(cell)] for cell in cells.tolist()]
        return self._vectors[rows]

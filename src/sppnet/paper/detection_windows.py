"""R-CNN's windows for tables 9 to 12: every row asks for their vectors again."""

import hashlib

import torch
from torch import Tensor

from sppnet.backbones import Backbone
from sppnet.detection.encoder import EncodedImage
from sppnet.detection.feature_set import digest_weights
from sppnet.detection.rcnn import RcnnEncoder
from sppnet.storage import FeatureCache

VECTORS_VERSION = 1


class KeptRcnnEncoder(RcnnEncoder):
    """R-CNN's way with the vectors of all windows on disk.

    They are kept in half precision: a window takes two bytes a number, so that VOC 2007 with 2000
    windows an image takes hundreds of gigabytes, as it did in 2014.

    Args:
        backbone: Convolution trunk.
        levels: Bins along each side of the crop's map, one number per level.
        cache: Where vectors are kept.

    Example:
        >>> import tempfile
        >>> from sppnet.backbones import build_backbone
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     encoder = KeptRcnnEncoder(build_backbone("small5"), (1,), FeatureCache(folder))
        ...     encoded = encoder.encode(torch.rand(3, 60, 80))
        ...     cells = encoder.locate(encoded, torch.tensor([[10.0, 10.0, 50.0, 50.0]]))
        ...     encoder.describe_cells(encoded, cells).shape, len(list(encoder.cache.keys()))
        (torch.Size([1, 96]), 1)
    """

    def __init__(self, backbone: Backbone, levels: tuple[int, ...], cache: FeatureCache) -> None:
        super().__init__(backbone, levels)
        self.cache = cache
        self._weights = digest_weights(backbone.state_dict())
        self._key = ""  # of the image whose vectors are at hand
        self._row_of: dict[tuple[int, ...], int] = {}
        self._vectors = torch.zeros(0, self.length, dtype=torch.float16)

    @torch.no_grad()
    def describe_cells(self, encoded: EncodedImage, cells: Tensor) -> Tensor:
        """Look up the vectors of windows; convolve those that were never asked for."""
        self._take_up(encoded)
        wanted = [tuple(cell) for cell in cells.tolist()]
        new = [cell for cell in dict.fromkeys(wanted) if cell not in self._row_of]
        if new:
            self._add(encoded, torch.tensor(new))
        rows = torch.tensor([self._row_of[cell] for cell in wanted], dtype=torch.int64)
        return self._vectors[rows].float().to(self.device)

    def score_cells(self, encoded: EncodedImage, cells: Tensor, weights: Tensor) -> Tensor:
        """Multiply the vectors of windows by a matrix."""
        return self.describe_cells(encoded, cells) @ weights

    def _take_up(self, encoded: EncodedImage) -> None:
        """Read what is kept of an image, unless it is at hand."""
        pixels = encoded.maps[0].cpu().contiguous()
        key = self.cache.make_key(
            kind="R-CNN vectors",
            version=VECTORS_VERSION,
            pixels=hashlib.sha256(pixels.numpy().tobytes()).hexdigest(),
            weights=self._weights,
            encoder=repr(sorted(self.configuration().items())),
        )
        if key == self._key:
            return
        nothing = {"cells": torch.zeros(0, 5, dtype=torch.int64), "vectors": self._vectors[:0]}
        record = self.cache.get(key) or nothing
        self._key, self._vectors = key, record["vectors"]
        self._row_of = {tuple(cell): row for row, cell in enumerate(record["cells"].tolist())}

    def _add(self, encoded: EncodedImage, cells: Tensor) -> None:
        """Convolve windows and keep their vectors."""
        vectors = super().describe_cells(encoded, cells).cpu().half()
        for cell in cells.tolist():
            self._row_of[tuple(cell)] = len(self._row_of)
        self._vectors = torch.cat([self._vectors, vectors])
        kept = {"cells": torch.tensor(list(self._row_of)), "vectors": self._vectors}
        self.cache.put(self._key, kept)

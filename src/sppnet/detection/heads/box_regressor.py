"""What a detector asks of the model that moves boxes, and how it is read from a model folder."""

from typing import Any, Protocol

from torch import Tensor

from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.finetune.region_network import BoxHead
from sppnet.detection.heads.box_regression import BoxCascade


class BoxRegressor(Protocol):
    """Moves boxes to where the things in them seem to be."""

    def apply(
        self, encoder: Encoder, encoded: EncodedImage, labels: Tensor, boxes: Tensor
    ) -> Tensor:
        """Move boxes.

        Args:
            encoder: Describes windows.
            encoded: The image.
            labels: (W,) class of each box.
            boxes: (W, 4) xyxy in pixels of the original image.

        Returns:
            (W, 4) better boxes, cut at the image.
        """
        ...

    def config(self) -> dict[str, Any]:
        """Everything but the weights, in JSON values; has the ``kind``."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The weights."""
        ...


_KINDS: dict[str, type[BoxCascade | BoxHead]] = {"cascade": BoxCascade, "head": BoxHead}


def box_regressor_from_config(config: dict[str, Any], tensors: dict[str, Tensor]) -> BoxRegressor:
    """Put a box regression together again from its ``config()`` and ``tensors()``.

    Raises:
        KeyError: If a part is missing.
        TypeError: If a part has another name.
        ValueError: If the parts do not fit together.
    """
    return _KINDS[config["kind"]].from_config(config, tensors)

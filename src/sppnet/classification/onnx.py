"""A classifier's network as an ONNX file: images of any one size in, logits out."""

import torch
from torch import Tensor, nn

from sppnet.backbones import Backbone
from sppnet.backbones.backbone import check_exportable, convolve_any_size
from sppnet.classification.classifier import Classifier
from sppnet.classification.network import AverageAndPyramid, SppNet
from sppnet.pooling import SpatialPyramidPool
from sppnet.pooling.onnx.export import ROUNDING, ExportRecipe

LARGEST_SIDE = 256  # of the usual size to compare on; larger ones take longer and show no more
NARROW_SIDE = 16


class ClassifierGraph(nn.Module):
    """The network for an exporter: logits, and what the check looks at.

    Args:
        network: Trunk, pooling and head.
    """

    def __init__(self, network: SppNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> logits (N, K), maps, and their maxima or else averages."""
        features = convolve_any_size(trunk_of(self.network), images)
        pooled = self.network.pool(features)
        averaged = isinstance(self.network.pool, AverageAndPyramid)
        return self.network.head(pooled), features, pooled[:, features.shape[1] * averaged :]


def trunk_of(network: SppNet) -> Backbone:
    """Return the trunk, or say that it is none that sppnet can describe.

    Raises:
        TypeError: If it is no :class:`sppnet.backbones.Backbone`.
    """
    if not isinstance(network.backbone, Backbone):
        raise TypeError(f"backbone must be a Backbone, got {type(network.backbone).__name__}")
    return network.backbone


def classifier_recipe(classifier: Classifier) -> ExportRecipe:
    """Describe the export of a classifier.

    Args:
        classifier: On the CPU.

    Returns:
        A recipe for :func:`sppnet.pooling.onnx.export.export_onnx`: ``images`` (N, 3, H, W), which
        ``classifier.view`` has resized, in; ``logits`` (N, K) out; N, H and W free.

    Raises:
        TypeError: If the trunk is no :class:`sppnet.backbones.Backbone`.
        OutputError: If the trunk cannot be exported for all sizes.

    Example:
        >>> from sppnet.classification import View, build_classifier
        >>> network = build_classifier("small5", num_classes=2)
        >>> classifier_recipe(Classifier(network, View(), ("cat", "dog"))).outputs
        {'logits': {0: 'batch'}}
    """
    network, side = classifier.network, trunk_of(classifier.network).min_size
    check_exportable(trunk_of(network))
    usual = min(classifier.view.short_side, LARGEST_SIDE)
    sizes = [(1, 1, 1), (2, side, side), (3, side + 5, side + 18), (1, usual, usual * 3 // 2)]
    plain = SppNet(trunk_of(network).with_engine("torch"), network.pool, network.head).eval()
    narrow = max(side, NARROW_SIDE)
    sizes += [(1, narrow, 20 * narrow), (1, 20 * narrow, narrow)]
    return ExportRecipe(
        module=ClassifierGraph(network),
        example=_draw_images(2, side + 30, side + 41),
        inputs={"images": {0: "batch", 2: "height", 3: "width"}},
        outputs={"logits": {0: "batch"}},
        expect=lambda images: (plain(images),),
        cases=[_draw_images(*size) for size in sizes],
        tolerance=ROUNDING,
        probes=("features", "pooled"),
        repool=_maxima_of(network.pool),
        about={"kind": classifier.kind, **_facts(classifier)},
    )


def _maxima_of(pool: nn.Module) -> nn.Module | None:
    """The part of a pooling whose results must be the same bits wherever they are computed."""
    pyramid = pool.maxima if isinstance(pool, AverageAndPyramid) else pool
    return pyramid if isinstance(pyramid, SpatialPyramidPool) else None


def _facts(classifier: Classifier) -> dict[str, object]:
    """All but what the classifier was fitted on."""
    return {key: value for key, value in classifier.config().items() if key != "about"}


def _draw_images(count: int, height: int, width: int) -> tuple[Tensor]:
    draw = torch.Generator().manual_seed(height * width)
    return (torch.rand(count, 3, height, width, generator=draw),)

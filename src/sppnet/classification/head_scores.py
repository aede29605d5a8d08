"""What a head says of pooled rows: probabilities of a trained network, margins of linear SVMs."""

import torch
from torch import Tensor

from sppnet.classification.network import SppNet, apply_in_blocks

SCORE_KINDS = ("probability", "margin")


@torch.inference_mode()
def score_rows(network: SppNet, rows: Tensor, score_kind: str = "probability") -> Tensor:
    """Score pooled features; a row's scores have the same bits in any company.

    Args:
        network: Only its head is used; it is in evaluation mode.
        rows: (N, D) on the head's device.
        score_kind: ``"probability"`` passes the logits through softmax; ``"margin"`` leaves them as
            they are.

    Returns:
        (N, K) float32 on the CPU.

    Raises:
        ValueError: If there is no such kind of score.

    Example:
        >>> from sppnet.classification import build_classifier
        >>> score_rows(build_classifier("small5", 3).eval(), torch.rand(2, 4800)).shape
        torch.Size([2, 3])
    """
    if score_kind not in SCORE_KINDS:
        raise ValueError(f"score_kind must be one of {SCORE_KINDS}, got {score_kind!r}")
    logits = apply_in_blocks(network.head, rows)
    scores = logits.softmax(dim=1) if score_kind == "probability" else logits
    return scores.float().cpu()

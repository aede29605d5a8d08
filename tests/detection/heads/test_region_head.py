"""Heads equal the chain of matrices written out, and stay the same when they are put away."""

import itertools

import pytest
import torch
from torch import Tensor

from sppnet.detection.heads.region_head import RegionHead, compress, head_from_config
from sppnet.errors import UnusableFileError

LENGTH, CLASSES = 40, 3
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def _head(ranks: tuple[int, int] = (0, 0), widths: tuple[int, int] = (12, 8)) -> RegionHead:
    torch.manual_seed(0)
    head = RegionHead(LENGTH, CLASSES, widths, ranks).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    head.scale.fill_(0.5)
    return head


def _rows(count: int = 6) -> Tensor:
    return torch.rand(count, LENGTH, generator=torch.Generator().manual_seed(1))


def _by_hand(head: RegionHead, rows: Tensor) -> dict[str, Tensor]:
    """Every layer in float64, a low-rank one as the product of its matrices."""
    tensors = {name: tensor.double() for name, tensor in head.state_dict().items()}

    def matrix(name: str) -> Tensor:
        if f"{name}.1.weight" in tensors:
            return tensors[f"{name}.1.weight"] @ tensors[f"{name}.0.weight"]
        return tensors[f"{name}.0.weight"]

    def bias(name: str) -> Tensor:
        return tensors.get(f"{name}.1.bias", tensors.get(f"{name}.0.bias"))

    fc6 = (0.5 * rows.double() @ matrix("fc6").T + bias("fc6")).clamp(min=0)
    fc7 = (fc6 @ matrix("fc7").T + bias("fc7")).clamp(min=0)
    logits = fc7 @ tensors["logits.weight"].T + tensors["logits.bias"]
    return {"pooled": rows.double(), "fc6": fc6, "fc7": fc7, "logits": logits}


@pytest.mark.parametrize("ranks", [(0, 0), (5, 0), (0, 4), (5, 4)])
def test_every_layer_is_the_chain_of_matrices(ranks: tuple[int, int]) -> None:
    head, rows = _head(ranks), _rows()
    expected = _by_hand(head, rows)
    for layer in ("pooled", "fc6", "fc7"):
        torch.testing.assert_close(head.describe(rows, layer).double(), expected[layer], **CLOSE)
    for layer in ("fc6", "fc7", "logits"):
        found = head.finish(rows @ head.first, layer)
        torch.testing.assert_close(found.double(), expected[layer], **CLOSE)
    torch.testing.assert_close(head(rows).double(), expected["logits"], **CLOSE)


def test_gradient_is_that_of_finite_differences() -> None:
    head = _head((5, 4)).double()
    rows = _rows(2).double().requires_grad_()
    assert torch.autograd.gradcheck(head, rows)
    assert torch.autograd.gradcheck(lambda r: head.describe(r, "fc7"), rows)


def test_dropout_acts_in_training_alone() -> None:
    head, rows = _head(), _rows(200)
    assert torch.equal(head(rows), head(rows))
    head.train()
    assert not torch.equal(head(rows), head(rows))
    assert torch.equal(head.describe(rows), head.describe(rows))


@pytest.mark.parametrize("old_ranks", [(0, 0), (10, 6)])
def test_compression_is_the_truncated_svd(old_ranks: tuple[int, int]) -> None:
    head = _head(old_ranks)
    small = compress(head, (4, 3))
    for name, rank in (("fc6", 4), ("fc7", 3)):
        before, after = (
            list(itertools.accumulate(
                [p.double() for p in getattr(h, name).parameters() if p.ndim == 2],
                lambda total, matrix: matrix @ total,
            ))[-1]
            for h in (head, small)
        )  # fmt: skip
        left, values, right = torch.linalg.svd(before, full_matrices=False)
        best = left[:, :rank] * values[:rank] @ right[:rank]
        torch.testing.assert_close(after, best, atol=1e-5, rtol=1e-4)
    assert small.ranks == (4, 3)
    assert small.scale == head.scale


def test_compression_to_nearly_full_rank_hardly_changes_the_logits() -> None:
    head, rows = _head(), _rows(50)
    small, smaller = compress(head, (11, 0)), compress(head, (3, 0))
    assert small.ranks == (11, 0)
    error, more = ((h(rows) - head(rows)).norm() / head(rows).norm() for h in (small, smaller))
    assert error < 0.15 < more


@pytest.mark.parametrize("ranks", [(0, 0), (5, 4)])
def test_head_comes_back_bit_for_bit(ranks: tuple[int, int]) -> None:
    head = _head(ranks)
    again = head_from_config(head.config(), head.state_dict())
    assert torch.equal(again(_rows()), head(_rows()))
    assert not again.training
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_tensors_of_another_head_are_refused() -> None:
    with pytest.raises(UnusableFileError, match="the saved head does not fit together"):
        head_from_config(_head().config(), _head((5, 0)).state_dict())
    with pytest.raises(UnusableFileError, match="does not fit together"):
        head_from_config({**_head().config(), "depth": 3}, _head().state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (0, 4)}, "two widths must be at least 1"),
        ({"widths": (4,)}, "two widths must be at least 1"),
        ({"ranks": (-1, 0)}, r"ranks must be two numbers from 0 on, got \(-1, 0\)"),
        ({"dropout": 1.0}, "dropout must lie in 0..1"),
    ],
)
def test_impossible_heads_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegionHead(LENGTH, CLASSES, **options)


def test_wrong_layers_and_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match="layer must be one of pooled, fc6, fc7, got 'fc8'"):
        _head().describe(_rows(), "fc8")
    with pytest.raises(ValueError, match="below the widths"):
        compress(_head(), (12, 0))

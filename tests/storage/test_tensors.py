"""The digest of tensors sees all of them."""

import torch

from sppnet.storage.tensors import digest_of


def test_digest_sees_names_types_shapes_and_values() -> None:
    one = {"a": torch.zeros(2, 3)}
    others = [
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3, dtype=torch.int32)},
        {"a": torch.zeros(2, 3).index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(1e-30))},
        {"a": torch.zeros(2, 3), "b": torch.tensor(0)},
    ]
    assert len({digest_of(None, each) for each in [one, *others]}) == 6
    assert digest_of(None, {"a": torch.zeros(3, 2).T}) == digest_of(None, one)
    assert digest_of({}, one) != digest_of(None, one)

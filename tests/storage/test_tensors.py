"""The digest of tensors sees all of them."""

import json
import struct
from pathlib import Path

import pytest
import torch

from sppnet.errors import UnusableFileError
from sppnet.storage.tensors import bytes_to_tensors, digest_of, read_parts, write_parts


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


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F8_E8M0", "X9", "C64", "U16", "BOOL", "", 3])
def test_types_that_torch_lacks_are_no_bug(dtype: object) -> None:
    size = 1 if dtype in ("F4", "F8_E8M0", "BOOL") else 2
    header = json.dumps({"w": {"dtype": dtype, "shape": [2], "data_offsets": [0, size]}}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(size)
    try:
        bytes_to_tensors(data)
    except ValueError as error:
        assert "not a whole safetensors file" in str(error)  # noqa: PT017


def test_tensors_of_more_dimensions_than_torch_works_with_are_refused() -> None:
    header = {"w": {"dtype": "F32", "shape": [1] * 70, "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    with pytest.raises(ValueError, match=r"more than 64 dimensions|safetensors"):
        bytes_to_tensors(struct.pack("<Q", len(text)) + text + bytes(4))


def test_parts_come_back_and_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "parts"
    wrote = [{"a": torch.arange(n), "b": torch.ones(2, n, dtype=torch.float16)} for n in range(4)]
    write_parts(path, iter(wrote))
    read = list(read_parts(path))
    assert [sorted(part) for part in read] == [["a", "b"]] * 4
    assert all(torch.equal(a[k], b[k]) for a, b in zip(read, wrote, strict=True) for k in "ab")
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        for broken in (whole[:at], whole[:at] + b"\xee" + whole[at + 1 :]):
            if broken != whole:
                path.write_bytes(broken)
                with pytest.raises(UnusableFileError):
                    list(read_parts(path))
    path.write_bytes(whole + b"x")
    with pytest.raises(UnusableFileError):
        list(read_parts(path))
    with pytest.raises(UnusableFileError):
        list(read_parts(tmp_path / "none"))

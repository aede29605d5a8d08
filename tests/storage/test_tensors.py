"""The digest of tensors sees all of them."""

import ctypes
import gc
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from sppnet.errors import UnusableFileError
from sppnet.storage.tensors import (
    LEAST_ROWS,
    RowStore,
    bytes_to_tensors,
    check_float32,
    digest_of,
    first_not_finite,
    read_parts,
    tensors_to_bytes,
    write_parts,
)

BLOCK = LEAST_ROWS


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


def test_rows_come_back_from_the_places_of_a_store() -> None:
    store = RowStore(length=3, capacity=BLOCK)
    rows = torch.randn(3 * BLOCK + 5, 3).half()  # more than fit into one stretch of memory
    places = store.add(rows)
    assert torch.equal(store.take(places), rows)
    order = np.random.default_rng(0).permutation(len(places))
    assert torch.equal(store.take(places[order]), rows[torch.from_numpy(order)])
    store.release(places[:BLOCK])
    again = store.add(rows[:BLOCK].flip(0))
    assert set(again) == set(places[:BLOCK])
    assert torch.equal(store.take(again), rows[:BLOCK].flip(0))
    assert torch.equal(store.take(places[BLOCK:]), rows[BLOCK:])


def test_what_one_store_releases_another_that_shares_it_still_reads() -> None:
    store = RowStore(length=2, capacity=BLOCK)
    places = store.add(torch.ones(4, 2))
    other = store.share()
    store.release(places)
    store.add(torch.zeros(4, 2))
    other.release(places[:2])  # not its own to give away
    own = other.add(torch.full((4, 2), 3.0))
    assert not set(own) & set(places)
    other.release(own[:1])
    assert other.add(torch.full((1, 2), 4.0)).tolist() == own[:1].tolist()
    other.add(torch.full((1, 2), 3.0))
    own = own[1:]
    assert bool((other.take(places) == 1).all())
    assert bool((other.take(own) == 3).all())
    del other
    gc.collect()
    assert set(places) <= set(store.add(torch.zeros(4, 2)))


def test_a_store_has_as_many_rows_in_a_stretch_as_it_was_told_but_a_least_number() -> None:
    store = RowStore(length=4, capacity=BLOCK + 1)
    rows = torch.arange(4.0 * 3 * BLOCK).reshape(-1, 4) % 999
    places = store.add(rows)
    assert [len(part) for part in store._parts] == [BLOCK + 1] * 3
    read = [
        np.ctypeslib.as_array(ctypes.cast(place, ctypes.POINTER(ctypes.c_uint16)), (4,))
        for place in store.addresses(places[[0, BLOCK, BLOCK + 1, -1]]).tolist()
    ]
    wanted = rows[[0, BLOCK, BLOCK + 1, -1]].half().numpy().view(np.uint16)
    assert np.array_equal(np.stack(read), wanted)
    assert RowStore(length=4, capacity=1).capacity == LEAST_ROWS
    assert RowStore(length=2**20).capacity == LEAST_ROWS
    assert RowStore(length=2**10).capacity == 2**15  # 64 MB of 2,048 bytes each


def test_tensors_that_have_no_bytes_of_their_own_are_refused() -> None:
    with pytest.raises(TypeError, match="must map names to tensors, got 3"):
        tensors_to_bytes({3: torch.ones(1)})
    with pytest.raises(TypeError, match="must map names to tensors, got 'a'"):
        tensors_to_bytes({"a": [1.0]})
    with pytest.raises(TypeError, match=r"must be dense, got torch[.]sparse_coo in 'b'"):
        tensors_to_bytes({"a": torch.ones(1), "b": torch.ones(1).to_sparse()})
    with pytest.raises(ValueError, match=r"tensor 'b' must be float32, got torch[.]float64"):
        check_float32({"a": torch.ones(1), "b": torch.ones(1).double()})


def test_the_first_tensor_with_a_nan_is_named_of_any_type() -> None:
    bad = torch.tensor([1.0, float("nan")])
    assert first_not_finite({"a": torch.ones(2), "b": bad, "c": bad}) == "b"
    assert first_not_finite({"a": bad.to(torch.float8_e5m2)}) == "a"
    assert first_not_finite({"a": torch.ones(2).to(torch.float8_e5m2)}) is None
    assert first_not_finite({"a": torch.tensor([2**40]), "b": torch.tensor([True])}) is None

"""The cache answers bit-equal or not at all; its keys tell apart everything that differs."""

import errno
import os
import stat
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sppnet.errors import OutputError
from sppnet.storage import FeatureCache
from sppnet.storage.cache import WriteBehind, _build_record
from storage_faults import fail_call, failure_of, file_size_limit

KEY = FeatureCache.make_key(image=b"abc", size=688)
TENSORS = {
    "map": torch.arange(24, dtype=torch.float32).reshape(2, 3, 4),
    "size": torch.tensor([3, 4]),
}


def record_path(cache: FeatureCache) -> Path:
    (path,) = cache.folder.glob("??/*.record")
    return path


def test_what_is_put_comes_back_bit_equal(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    assert cache.get(KEY) is None
    assert KEY not in cache
    cache.put(KEY, TENSORS)
    found = FeatureCache(tmp_path / "cache").get(KEY)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    assert KEY in cache
    assert list(cache.keys()) == [KEY]
    assert (cache.hits, cache.misses, cache.damaged) == (0, 1, 0)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(0, 4),
        torch.tensor(3.0),
        torch.tensor([float("nan"), float("inf"), -0.0]),
        torch.ones(3, 4).t(),
        torch.ones(1, 3).expand(5, 3),
        torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.ones(3, requires_grad=True),
        torch.ones(3, dtype=torch.float16),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(3, dtype=torch.bool),
        torch.arange(3, dtype=torch.uint8),
        torch.ones(10)[2:5],
    ],
    ids=str,
)
def test_every_kind_of_tensor(tmp_path: Path, tensor: torch.Tensor) -> None:
    cache = FeatureCache(tmp_path)
    cache.put(KEY, {"a": tensor, "the same again": tensor})
    found = cache.get(KEY)["a"]
    assert found.dtype == tensor.dtype
    assert found.shape == tensor.shape
    torch.testing.assert_close(found, tensor.detach(), rtol=0, atol=0, equal_nan=True)
    found.zero_()  # it owns its memory


def test_empty_record(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put(KEY, {})
    assert cache.get(KEY) == {}


@pytest.mark.parametrize("bad", [{1: torch.ones(1)}, {"a": [1]}, {"a": torch.ones(2).to_sparse()}])
def test_refuses_other_values(tmp_path: Path, bad: dict) -> None:
    with pytest.raises(TypeError, match="tensors must"):
        FeatureCache(tmp_path).put(KEY, bad)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put(KEY, {"map": torch.ones(3)})
    path = record_path(cache)
    whole = path.read_bytes()
    for position in range(len(whole) * 8):
        torn = bytearray(whole)
        torn[position // 8] ^= 1 << position % 8
        path.write_bytes(torn)
        assert cache.get(KEY) is None, f"bit {position}"
    assert cache.damaged == cache.misses == len(whole) * 8
    cache.put(KEY, TENSORS)  # the damaged record is replaced
    assert cache.get(KEY) is not None


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put(KEY, {"map": torch.ones(3)})
    path = record_path(cache)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert cache.get(KEY) is None
        assert KEY not in cache
    path.write_bytes(whole + b"\0")
    assert cache.get(KEY) is None
    path.write_bytes(bytes(len(whole)))  # blocks that a power cut left empty
    assert cache.get(KEY) is None
    assert cache.hits == 0


def test_a_record_under_another_name_is_not_believed(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put(KEY, TENSORS)
    other = KEY[:-1] + ("0" if KEY[-1] != "0" else "1")
    record_path(cache).rename(record_path(cache).with_name(f"{other}.record"))
    assert cache.get(other) is None
    assert cache.damaged == 1


def test_foreign_things_in_the_folder(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    (tmp_path / "README").touch()
    (tmp_path / KEY[:2] / f"{KEY}.record").mkdir(parents=True)
    assert cache.get(KEY) is None
    with pytest.raises(OutputError):
        cache.put(KEY, TENSORS)
    (tmp_path / KEY[:2] / f"{KEY}.record").rmdir()
    os.mkfifo(tmp_path / KEY[:2] / f"{KEY}.record")
    assert cache.get(KEY) is None, "and does not wait for the pipe"


@pytest.mark.parametrize("key", ["", "../../etc/passwd", KEY[:-1], KEY.upper(), KEY + "\n"])
def test_a_key_cannot_leave_the_folder(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="key must be 64"):
        FeatureCache(tmp_path).get(key)


# --- keys -------------------------------------------------------------------------------------


def test_keys_are_pinned(monkeypatch) -> None:
    """A changed key makes every user's cache useless: then FORMAT_VERSION must be changed too."""
    monkeypatch.setattr("sppnet.storage.cache._software", lambda: (("sppnet", "1.0"),))
    key = FeatureCache.make_key(image=b"\x00", trunk="zf5", side=688, centre=20.0, levels=(1, 2))
    assert key == FeatureCache.make_key(
        levels=(1, 2), centre=20.0, side=688, trunk="zf5", image=b"\x00"
    )
    assert key.startswith("9fe47a4085d92f8b")


PARTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda part: st.lists(part, max_size=3).map(tuple),
    max_leaves=6,
)


@settings(deadline=None)  # a busy machine is no fault
@given(PARTS, PARTS)
def test_different_parts_have_different_keys(a: object, b: object) -> None:
    same = repr(a) == repr(b)  # tells 1, 1.0, True and "1" apart, and 0.0 from -0.0
    assert (FeatureCache.make_key(part=a) == FeatureCache.make_key(part=b)) == same
    assert FeatureCache.make_key(x=a, y=b) != FeatureCache.make_key(x=(a, b))


def test_names_count_too() -> None:
    keys = [
        FeatureCache.make_key(),
        FeatureCache.make_key(a=1),
        FeatureCache.make_key(b=1),
        FeatureCache.make_key(a=1, b=1),
        FeatureCache.make_key(format=1),
        FeatureCache.make_key(a="1"),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("part", [[1], {"a": 1}, torch.ones(1), np.ones(1), object()])
def test_keys_refuse_what_has_no_one_spelling(part: object) -> None:
    with pytest.raises(TypeError, match="parts must be"):
        FeatureCache.make_key(part=part)


# --- folders and disks ------------------------------------------------------------------------


def test_folder_is_private(tmp_path: Path) -> None:
    FeatureCache(tmp_path / "a" / "cache").put(KEY, TENSORS)
    for folder in (tmp_path / "a" / "cache", tmp_path / "a" / "cache" / KEY[:2]):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_warns_when_everybody_can_write(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    with pytest.warns(UserWarning, match="everybody can write"):
        FeatureCache(tmp_path / "cache")


def test_unusable_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for bad in ("file", "file/below"):
        with pytest.raises(OutputError) as caught:
            FeatureCache(tmp_path / bad)
        assert caught.value.exit_code == 6


def test_folder_removed_meanwhile(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    (tmp_path / "cache" / "unfinished").rmdir()
    (tmp_path / "cache").rmdir()
    assert cache.get(KEY) is None
    with pytest.raises(OutputError, match="No such file"):
        cache.put(KEY, TENSORS)


def test_full_disk_keeps_the_other_records(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put(KEY, TENSORS)
    other = FeatureCache.make_key(image=b"other")
    with file_size_limit(2000), pytest.raises(OutputError, match="EFBIG"):
        cache.put(other, {"map": torch.zeros(1000)})
    assert cache.get(other) is None
    assert cache.get(KEY) is not None
    assert cache.damaged == 0
    assert not any((tmp_path / "unfinished").iterdir())
    cache.put(other, {"map": torch.zeros(1000)})
    assert cache.get(other) is not None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_any_call_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    for k in range(1, 100):
        cache = FeatureCache(tmp_path / str(k))
        with monkeypatch.context() as patch:
            fired = fail_call(patch, k, code)
            error = failure_of(partial(cache.put, KEY, TENSORS))
        found = cache.get(KEY)
        assert cache.damaged == 0
        assert found is not None or error
        cache.put(KEY, TENSORS)
        assert cache.get(KEY) is not None
        if not fired:
            assert k > 5
            return
    pytest.fail("no end of faults")


def test_opening_many_records_is_fast(tmp_path: Path) -> None:
    for shard in range(256):
        folder = tmp_path / f"{shard:02x}"
        folder.mkdir()
        for index in range(20):
            (folder / f"{shard:02x}{index:062x}.record").touch()
    start = time.perf_counter()
    FeatureCache(tmp_path)
    assert time.perf_counter() - start < 1


def _records(folder: Path, names: str, limit: int | None) -> FeatureCache:
    return _put(FeatureCache(folder, limit), names)


def _held(cache: FeatureCache) -> str:
    return "".join(n for n in "abcdefgh" if FeatureCache.make_key(name=n) in cache)


def test_a_limit_drops_what_was_used_longest_ago(tmp_path: Path) -> None:
    one = _records(tmp_path, "a", None).num_bytes()
    _records(tmp_path, "bcd", None)
    for age, name in enumerate("bcda"):  # a was used last
        path = tmp_path / (key := FeatureCache.make_key(name=name))[:2] / f"{key}.record"
        os.utime(path, (1000 + age, 1000 + age))
    cache = FeatureCache(tmp_path, int(4.5 * one))
    assert cache.get(FeatureCache.make_key(name="b")) is not None  # in use from now on
    cache = _put(cache, "ef")
    assert _held(cache) == "abef"
    assert cache.num_bytes() <= cache.most_bytes
    assert _held(_put(cache, "g")) == "befg"
    assert _held(_put(cache, "h")) == "befg"  # all of it is in use
    assert cache.refused == 1
    cache.put(KEY, TENSORS)  # small ones still find room
    assert KEY in cache
    assert cache.num_bytes() <= cache.most_bytes
    later = _put(FeatureCache(tmp_path, int(4.5 * one)), "h")
    assert "h" in _held(later)


def _put(cache: FeatureCache, names: str) -> FeatureCache:
    for name in names:
        cache.put(FeatureCache.make_key(name=name), {"map": torch.full((100_000,), ord(name))})
    return cache


def test_a_cache_without_room_keeps_nothing_and_works(tmp_path: Path) -> None:
    cache = _records(tmp_path, "ab", 1000)
    assert (_held(cache), cache.refused, cache.num_bytes()) == ("", 2, 0)
    assert cache.get(FeatureCache.make_key(name="a")) is None


def test_a_record_that_is_written_again_takes_its_room_once(tmp_path: Path) -> None:
    one = _records(tmp_path / "free", "a", None).num_bytes()
    cache = _records(tmp_path / "limited", "a" * 9, int(3.5 * one))
    assert cache.get(FeatureCache.make_key(name="a")) is not None
    _put(cache, "abc")
    assert (_held(cache), cache.refused) == ("abc", 0)


def test_a_cache_is_removed_but_for_what_is_not_its_own(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "cache")
    cache.put(KEY, TENSORS)
    cache.put(FeatureCache.make_key(image=b"abd"), TENSORS)
    assert cache.num_bytes() == sum(path.stat().st_size for path in cache.folder.glob("*/*.record"))
    (cache.folder / KEY[:2] / "note").write_text("mine")
    cache.remove()
    assert [path.name for path in cache.folder.rglob("*")] == [KEY[:2], "note"]
    (cache.folder / KEY[:2] / "note").unlink()
    cache.remove()
    assert not cache.folder.exists()


class SlowCache:
    """Writes only as it is let to, and fails on request."""

    def __init__(self) -> None:
        self.gate, self.written = threading.Semaphore(0), []

    def put(self, key: str, tensors: dict) -> None:  # noqa: ARG002
        assert self.gate.acquire(timeout=30)
        if key == "bad":
            raise OutputError("the disk is full")
        self.written.append(key)


def test_records_are_written_behind_and_only_so_many_wait() -> None:
    slow = SlowCache()
    with WriteBehind(slow, waiting=2) as later:
        for key in "ab":
            later.put(key, {})
        third = threading.Thread(target=later.put, args=("c", {}))
        third.start()
        third.join(0.3)
        assert third.is_alive()  # two wait already
        assert slow.written == []
        slow.gate.release(3)
        third.join(30)
        assert not third.is_alive()
    assert slow.written == ["a", "b", "c"]


def test_a_record_that_cannot_be_written_behind_is_an_error_unless_there_is_another() -> None:
    slow = SlowCache()
    slow.gate.release(4)

    def work(*, well: bool) -> None:
        with WriteBehind(slow) as later:
            later.put("a", {})
            later.put("bad", {})
            if not well:
                raise KeyError("of the work")

    with pytest.raises(OutputError, match="the disk is full"):
        work(well=True)
    with pytest.raises(KeyError):
        work(well=False)


def test_records_that_wait_are_written_although_the_work_failed() -> None:
    slow = SlowCache()
    release = threading.Timer(0.3, slow.gate.release, [2])

    def work() -> None:
        with WriteBehind(slow) as later:
            later.put("a", {})
            later.put("b", {})
            release.start()
            raise KeyError("of the work")

    with pytest.raises(KeyError):
        work()
    assert slow.written == ["a", "b"]


def test_a_record_of_something_else_with_a_right_digest_is_damaged(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put(KEY, TENSORS)
    record_path(cache).write_bytes(_build_record(b"no tensors", KEY))
    assert cache.get(KEY) is None
    assert cache.damaged == 1

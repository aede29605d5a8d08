"""Files are whole or absent; every failure is one OutputError; reading never waits."""

import errno
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sppnet.errors import InputError, OutputError, Problem, UnusableFileError
from sppnet.storage import (
    ensure_output_folder,
    read_bytes,
    read_json,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
)
from sppnet.storage import files as storage_files
from sppnet.storage.files import open_regular_file, parse_json, read_capped, read_lines
from storage_faults import (
    fail_call,
    failure_of,
    file_size_limit,
    lie_once,
    names_in,
    without_root,
)


def test_replaces_a_file_and_leaves_no_other(tmp_path: Path) -> None:
    for data in (b"", b"old", b"new" * 100_000):
        write_bytes(tmp_path / "a.bin", data)
        assert (tmp_path / "a.bin").read_bytes() == data
    assert names_in(tmp_path) == ["a.bin"]


def test_follows_a_link_and_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_longest_name_and_odd_names(tmp_path: Path) -> None:
    for name in ("é" * 127, "x" * 255, "a\nb", os.fsdecode(b"\xff.json"), "-rf"):
        write_text(tmp_path / name, name)
        assert (tmp_path / name).exists()
    assert len(names_in(tmp_path)) == 5


def test_respects_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "{}"),
        ({"ap": float("nan"), "x": [float("inf"), -0.5]}, '{"ap": null, "x": [null, -0.5]}'),
        ((1, "é", Path("a/b"), None, True), '[1, "\\u00e9", "a/b", null, true]'),
        ([np.float32(0.5), np.int64(3), np.float64("nan")], "[0.5, 3, null]"),
        ({"name": "\udcff\x1b"}, '{"name": "\\udcff\\u001b"}'),
    ],
)
def test_json_is_always_valid(tmp_path: Path, value: object, text: str) -> None:
    write_json(tmp_path / "a.json", value)
    written = (tmp_path / "a.json").read_bytes().decode("ascii")
    assert json.dumps(json.loads(written)) == text
    assert read_json(tmp_path / "a.json") == json.loads(text)


@pytest.mark.parametrize("value", [{1: 2}, {"a": {1, 2}}, b"bytes", {"a": object()}])
def test_json_refuses_other_types(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match="must"):
        write_json(tmp_path / "a.json", value)
    assert names_in(tmp_path) == []


def test_text_that_utf8_lacks_is_escaped(tmp_path: Path) -> None:
    write_text(tmp_path / "a.csv", "\udcff,é")
    assert (tmp_path / "a.csv").read_text("utf-8") == "\\udcff,é"


# --- failures of the disk ---------------------------------------------------------------------


def test_what_reads_back_differently_is_not_written(tmp_path: Path, monkeypatch) -> None:
    write_text(tmp_path / "a.json", "old")
    monkeypatch.setattr("os.write", lie_once(b"new", b"nev"))
    with pytest.raises(OutputError, match="reads back differently from what was written"):
        write_bytes(tmp_path / "a.json", iter([b"begin", b"new", b"end"]))
    assert (tmp_path / "a.json").read_text() == "old"
    assert names_in(tmp_path) == ["a.json"]
    write_bytes(tmp_path / "a.json", iter([b"begin", b"new", b"end"]))
    assert (tmp_path / "a.json").read_text() == "beginnewend"


def test_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "old")
    with file_size_limit(1000), pytest.raises(OutputError, match=r"File too large \(EFBIG\)"):
        write_bytes(tmp_path / "a.json", bytes(5000))
    assert (tmp_path / "a.json").read_text() == "old"
    assert names_in(tmp_path) == ["a.json"]
    write_bytes(tmp_path / "a.json", bytes(5000))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing/a.json", "No such file"),
        ("file/a.json", "Not a directory"),
        ("folder", "Is a directory"),
        ("fifo", "not a regular file"),
        ("/dev/null", "not a regular file"),
        ("/proc/a.json", "ENOENT|EACCES|EPERM"),
        ("nul\0.json", "null"),
        ("x" * 256, "ENAMETOOLONG"),
    ],
)
def test_unwritable_places_are_named(tmp_path: Path, path: str, reason: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OutputError, match=reason) as caught:
        write_text(tmp_path / path, "text")
    assert caught.value.exit_code == 6
    assert caught.value.path == tmp_path / path
    assert names_in(tmp_path) == ["fifo", "file", "folder"]


def test_folder_without_permission(tmp_path: Path) -> None:
    with without_root(), pytest.raises(OutputError, match="Permission denied"):
        ensure_output_folder("/root/sppnet" if Path("/root").exists() else "/sppnet")
    (tmp_path / "closed").mkdir(mode=0o555)
    tmp_path.chmod(0o755)
    with without_root(), pytest.raises(OutputError, match="Permission denied"):
        write_text(tmp_path / "closed" / "a", "text")


def test_output_folder_is_made_and_checked(tmp_path: Path) -> None:
    assert ensure_output_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert ensure_output_folder(tmp_path / "a" / "b").is_dir()
    assert names_in(tmp_path / "a" / "b") == []
    (tmp_path / "file").touch()
    for bad in ("file", "file/below", "nul\0"):
        with pytest.raises(OutputError):
            ensure_output_folder(tmp_path / bad)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_every_step_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Call number k of the system fails, for every k until none does."""
    for k in range(1, 100):
        (tmp_path / "a").write_bytes(b"old")
        with monkeypatch.context() as patch:
            fired = fail_call(patch, k, code)
            error = failure_of(lambda: write_bytes(tmp_path / "a", b"new"))
        assert errno.errorcode[code] in (error or errno.errorcode[code])
        assert (tmp_path / "a").read_bytes() in ((b"old", b"new") if error else (b"new",))
        assert names_in(tmp_path) == ["a"]
        if not fired:
            assert k > 5
            return
    pytest.fail("no end of faults")


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    write_bytes(tmp_path / "a", bytes(range(200)))
    assert (tmp_path / "a").read_bytes() == bytes(range(200))


def test_the_order_is_write_flush_rename_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("write", "fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, _n=name, _r=real, **k: (calls.append(_n), _r(*a, **k))[1]
        )
    write_bytes(tmp_path / "a", b"data")
    assert calls == ["write", "fsync", "replace", "fsync"]


# --- reading ----------------------------------------------------------------------------------


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == sha256_bytes(b"abc")
    assert sha256_bytes(b"abc").startswith("ba7816bf8f01cfea")
    with pytest.raises(UnusableFileError, match="cannot be read"):
        sha256_file(tmp_path / "b")


def test_reading_refuses_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # a socket's path is limited to 108 bytes
        server.bind("socket")
        for name in ("fifo", "socket", ".", "missing", "/dev/zero", "nul\0"):
            with pytest.raises(UnusableFileError) as caught:
                read_bytes(tmp_path / name)
            assert caught.value.exit_code == 5


def test_reading_has_a_limit(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(
        UnusableFileError, match=r"1099511627776 bytes; the limit is 100 .*TOO_LARGE"
    ):
        read_bytes(tmp_path / "huge", 100)
    (tmp_path / "just").write_bytes(bytes(100))
    assert len(read_bytes(tmp_path / "just", 100)) == 100


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "line 1"),
        (b'{"a": 1,\n"b": }', "line 2"),
        (b'{"a": NaN}', "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b'{"\xff": 1}', "utf-8"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"1" * 5000, "not valid JSON"),
        (b"{}{}", "Extra data"),
    ],
)
def test_bad_json_is_one_error(tmp_path: Path, data: bytes, rule: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(UnusableFileError, match=rule) as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)
    assert caught.value.code == "E_FORMAT"


def test_json_may_have_a_byte_order_mark_and_nan_on_request(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "b.json").write_bytes(b"[NaN, Infinity]")
    assert str(read_json(tmp_path / "b.json", allow_nan=True)) == "[nan, inf]"


def test_torch_is_not_loaded() -> None:
    code = "import sys, sppnet.storage; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_is_read_in_every_encoding_that_it_may_have(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes('{"é": [1, "猫"]}'.encode(encoding))
    assert read_json(path) == {"é": [1, "猫"]}
    path.write_bytes('{"é": [1, "猫"]}'.encode("utf-16")[:-1])
    with pytest.raises(UnusableFileError, match="not valid JSON"):
        read_json(path)


def test_a_message_that_quotes_a_large_name_stays_one_that_is_read() -> None:
    for made in (InputError("a" * 100_000), Problem("a.jpg", "b" * 100_000, "E_X")):
        assert len(str(made)) < 1200
        assert "letters left out" in str(made)


def test_a_file_of_names_is_read_in_every_encoding_that_it_may_have(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_bytes("é b\n\n猫\r\n".encode(encoding))
        assert read_lines(path) == ["é b", "", "猫"], encoding
    path.write_bytes("猫".encode("utf-16-be"))  # without the mark it is not known as such
    assert read_lines(path) != ["猫"]
    path.write_bytes(b"a\xff\n")
    assert [os.fsencode(line) for line in read_lines(path)] == [b"a\xff"]
    path.write_bytes(b"")
    assert read_lines(path) == []
    path.write_bytes(b"x" * 101)
    with pytest.raises(InputError, match="at most 100 bytes, has 101") as caught:
        read_lines(path, 100)
    assert caught.value.code == "E_TOO_LARGE"
    assert len(read_capped(path, 101)) == 101


def test_an_input_that_is_no_file_is_said(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "closed").write_bytes(b"x")
    (tmp_path / "closed").chmod(0)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # nobody may pass the folders above
    cases = {"none": "does not exist", ".": "is a folder", "nul\0": "null", "empty": "is empty",
             "closed": "cannot be opened: Permission denied"}  # fmt: skip
    for name, rule in cases.items():
        with without_root(), pytest.raises(InputError, match=rule) as caught:
            open_regular_file(name)
        assert caught.value.code == ("E_EMPTY" if name == "empty" else "E_UNREADABLE")


def test_json_of_next_to_nothing_but_lists_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_files, "_HOLLOW_BYTES", 800)
    hollow, just = b"[" + b"{}," * 300 + b"{}]", b"[" + b'{"a":12},' * 100 + b"0]"
    with pytest.raises(UnusableFileError, match="302 lists in 904 bytes") as caught:
        parse_json(hollow, "a.json")
    assert caught.value.code == "E_TOO_LARGE"
    assert len(parse_json(just, "a.json")) == 101
    assert len(parse_json(b"[" + b"{}," * 260 + b"{}]", "a.json")) == 261  # it is small

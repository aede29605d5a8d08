r"""What requests that are too large cost ``sppnet serve``: id D7 of the reliability bar.

    python benchmarks/serve_sizes.py --out sizes.json
    python benchmarks/serve_sizes.py --only 'chunks of 1 byte' 'epilogue'

Lengths that lie or are never reached, bodies and heads that do not end, chunks of one byte, 100,000
header lines, compressed bodies, forms of 10,000 parts or with much before or after them: each is
sent to a server of its own, which answers with what a stub says, by a client that sends on whatever
it hears, as fast as it can, for ``--patience`` seconds at most. Told of each: the statuses that
came back, MB that the server took from its socket until it refused and in all, MB of memory that
its process had at most beyond those before, and its seconds of processor time.

The bar: a refusal before more than the limit of a body and 64 kB were read, 30 MB, 0.2 s; what is
read at once is up to 256 kB here. Prints JSON, with those requests that do not hold it in
``beyond``; ends with 1 if there is any. Linux only.
"""

import argparse
import contextlib
import gzip
import mmap
import os
import re
import select
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent / "reliability"))

from bars import tell

import serve

BLOCK = 65_536
PHOTO_BYTES, FORM_BYTES = 20_000_000, 100_000_000  # that sppnet serve takes if it is not told
MOST_MEGABYTES, MOST_SECONDS = 30.0, 0.2
MOST_READ_ON = 21.0  # MB that are thrown away, so that the client hears the refusal
AT_ONCE = 262_144  # bytes that asyncio reads
GIF = b"GIF89a" + bytes(10)
RAW = "Content-Type: image/gif"
FORM = "Content-Type: multipart/form-data; boundary=xyz"
CHUNKED = "Transfer-Encoding: chunked"
PART = b'--xyz\r\nContent-Disposition: form-data; name="p"; filename="a.gif"\r\n\r\n'
ENDLESS_HEAD = "header without end"
SAID = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@dataclass(frozen=True)
class Hostile:
    """A request that asks for too much.

    Args:
        name: Of it.
        head: Header lines beside the first and ``Host``.
        body: What follows the head, in pieces as they are sent.
        most: Bytes that may be read before it is refused, beside 64 kB.
        ends: Whether the client says that it will send no more after that.
        is_first_good: Whether a request is in it that is to be answered.
    """

    name: str
    head: tuple[str, ...]
    body: Iterable[bytes] = ()
    most: int = 0
    ends: bool = False
    is_first_good: bool = False


def pieces(data: bytes) -> Iterator[bytes]:
    """Bytes in blocks."""
    return (data[begin : begin + BLOCK] for begin in range(0, len(data), BLOCK))


def chunked(data: bytes) -> bytes:
    """A chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def requests() -> list[Hostile]:
    """All of them."""
    endless = repeat(bytes(BLOCK))
    chunk = chunked(bytes(BLOCK))
    length = f"Content-Length: {10**11}"
    around = 90_000_000
    epilogue = PART + GIF + b"\r\n--xyz--\r\n" + bytes(around)
    lines = "".join(f"X{number}: y\r\n" for number in range(100_000))
    near = b"\r\n--xy" * (around // 6)

    def form(body: bytes) -> tuple[tuple[str, ...], Iterator[bytes]]:
        return (FORM, f"Content-Length: {len(body)}"), pieces(body)

    return [
        Hostile("length of 100 GB", (RAW, length), endless),
        Hostile("length of 100 GB, form", (FORM, length), endless),
        Hostile("length of 100 GB, asks first", (RAW, length, "Expect: 100-continue"), endless),
        Hostile("length too small", (RAW, "Content-Length: 16"), (GIF, *repeat(bytes(BLOCK), 99)),
                AT_ONCE, is_first_good=True),
        Hostile("length too large, ends", (RAW, "Content-Length: 1000000"), (GIF,), ends=True),
        Hostile("length too large, waits", (RAW, "Content-Length: 1000000"), (GIF,)),
        Hostile("chunks without end", (RAW, CHUNKED), repeat(chunk), PHOTO_BYTES),
        Hostile("chunks without end, form", (FORM, CHUNKED), repeat(chunk), FORM_BYTES),
        Hostile("chunks without end, one part", (FORM, CHUNKED),
                (chunked(PART), *repeat(chunk, 2000)), FORM_BYTES),
        Hostile("chunks of 1 byte", (RAW, CHUNKED), pieces(chunked(b"G") * 10**6 + b"0\r\n\r\n"),
                PHOTO_BYTES),
        Hostile("chunks of 100 bytes", (RAW, CHUNKED), pieces(chunked(b"G" * 100) * 210_000),
                PHOTO_BYTES),
        Hostile("100,000 header lines", (lines.strip(),)),
        Hostile("20,000 header lines at once", (lines[: lines.index("X20000")].strip(),)),
        Hostile("header of 1 MB", ("X: " + "x" * 10**6,)),
        Hostile("header of 200 kB at once", ("X: " + "x" * 200_000,)),
        Hostile(ENDLESS_HEAD, ("X: x",), repeat(b"x" * BLOCK)),
        Hostile("gzip", (RAW, CHUNKED, "Content-Encoding: gzip"),
                map(chunked, pieces(gzip.compress(bytes(200_000_000))))),
        Hostile("gzip, without end", (RAW, CHUNKED, "Content-Encoding: gzip"), repeat(chunk)),
        Hostile("10,000 parts", *form((PART + GIF + b"\r\n") * 10_000 + b"--xyz--\r\n"),
                FORM_BYTES),
        Hostile("10,000 parts that are no photos",
                *form(b'--xyz\r\nContent-Disposition: form-data; name="p"\r\n\r\n1\r\n' * 10_000
                      + b"--xyz--\r\n"), FORM_BYTES),
        Hostile("10,000 header lines of a part", *form(b"--xyz\r\n" + b"X: y\r\n" * 10_000
                + b"\r\n\r\n--xyz--\r\n"), FORM_BYTES),
        Hostile("preamble", *form(bytes(around) + PART + GIF + b"\r\n--xyz--\r\n"), FORM_BYTES),
        Hostile("epilogue", *form(epilogue), FORM_BYTES),
        Hostile("almost boundaries", *form(PART + near + b"\r\n--xyz--\r\n"), FORM_BYTES),
    ]  # fmt: skip


@dataclass(frozen=True)
class Heard:
    """What came of a request.

    Args:
        statuses: Of all answers.
        sent: Bytes.
        seconds: Until the connection was closed, or nothing was left to send or hear.
    """

    statuses: list[int]
    sent: int
    seconds: float


def converse(host: str, data: Iterator[bytes], *, ends: bool, patience: float) -> Heard:
    """Send on whatever comes back, until the connection is closed or nothing more is to come.

    Args:
        host: To send to.
        data: What to send.
        ends: Whether to say that no more comes.
        patience: Seconds after which to hang up.
    """
    name, port = host.split(":")
    begin, said, sent, left = time.monotonic(), b"", 0, b""
    is_sending = True
    with socket.create_connection((name, int(port))) as line, contextlib.suppress(OSError):
        line.setblocking(False)
        while time.monotonic() < begin + patience:
            if is_sending and not left:
                left = next(data, b"")
                is_sending = bool(left)
                if not is_sending and ends:
                    line.shutdown(socket.SHUT_WR)
            ready, writable, _ = select.select([line], [line] if is_sending else [], [], 0.5)
            if ready:
                block = line.recv(BLOCK)
                said += block
                if not block:
                    break
            if writable:
                try:
                    done = line.send(left)
                except OSError:  # it was closed; what it said may still be here
                    is_sending, left = False, b""
                    continue
                left, sent = left[done:], sent + done
            elif not is_sending and SAID.search(said) and not ready:
                break  # half a second after the last word
    statuses = [int(each) for each in SAID.findall(said)]
    return Heard(statuses, sent, time.monotonic() - begin)


class Watched:
    """What the process of a server takes.

    Args:
        number: Of the process.
    """

    def __init__(self, number: int) -> None:
        self.place = Path(f"/proc/{number}")
        self.before = self._kilobytes("VmRSS")
        (self.place / "clear_refs").write_text("5", "ascii")  # the peak counts from now
        self.seconds_before = self._seconds()

    def _kilobytes(self, name: str) -> int:
        text = (self.place / "status").read_text("utf-8")
        return int(re.findall(rf"{name}:\s+(\d+)", text)[0])

    def _seconds(self) -> float:
        fields = (self.place / "stat").read_text("utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def megabytes(self) -> float:
        """The most memory since then, beyond that of then."""
        return (self._kilobytes("VmHWM") - self.before) * 1024 / 1e6

    @property
    def seconds(self) -> float:
        """Of the processor since then."""
        return self._seconds() - self.seconds_before


def measure(request: Hostile, patience: float) -> dict[str, Any]:
    """Send a request to a server of its own; what it cost."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "count"
        place.write_bytes(bytes(16))
        with serve.serving(__file__, "--count", str(place)) as server:
            for _ in range(20):  # what is loaded at the first request is there then
                serve.ask(server.host, GIF)
            first = f"POST /v1/predict HTTP/1.1\r\nHost: {server.host}\r\n"
            head = (first + "\r\n".join(request.head)).encode()
            head += b"" if request.name == ENDLESS_HEAD else b"\r\n\r\n"
            watched, (begin, _) = Watched(server.process.pid), counts(place)
            data = chain([head], request.body)
            heard = converse(server.host, data, ends=request.ends, patience=patience)
            time.sleep(0.3)
            read, refused = counts(place)
            found = {
                "statuses": heard.statuses,
                "megabytes_sent": round(heard.sent / 1e6, 2),
                "megabytes_read": round((read - begin) / 1e6, 2),
                "megabytes_read_until_refused": round(max(0, refused - begin) / 1e6, 2),
                "megabytes_of_memory": round(watched.megabytes, 1),
                "processor_seconds": round(watched.seconds, 2),
                "seconds": round(heard.seconds, 1),
                "is_alive": serve.ask(server.host, GIF)[0] == 200,
            }
    return {**found, "beyond": judge(request, found)}


def judge(request: Hostile, found: dict[str, Any]) -> list[str]:
    """Which parts of the bar a request broke."""
    refused = [status for status in found["statuses"] if status >= 400]
    until = found["megabytes_read_until_refused"]
    bars = {
        "answered": refused != found["statuses"] and not request.is_first_good,
        "not refused": not refused and not request.ends,
        "a bug": any(status >= 500 for status in refused),
        "read": until > (request.most + BLOCK + AT_ONCE) / 1e6,
        "read on": found["megabytes_read"] > until + MOST_READ_ON,
        "memory": found["megabytes_of_memory"] > MOST_MEGABYTES,
        "processor": found["processor_seconds"] > MOST_SECONDS,
        "dead": not found["is_alive"],
    }
    return [name for name, is_beyond in bars.items() if is_beyond]


def counts(place: Path) -> tuple[int, int]:
    """Bytes that the server took from sockets, and those when it began to refuse."""
    read, refused = struct.unpack("qq", place.read_bytes())
    return read, refused


def serve_counted(place: Path) -> None:
    """Serve a stub; the bytes that are taken from sockets are counted in a file."""
    from sppnet.server.local import PatientProtocol
    from sppnet.server.serve_gate import ServeGuard

    take, call = PatientProtocol.data_received, ServeGuard.__call__
    refuse = PatientProtocol.send_400_response
    with place.open("r+b") as file, mmap.mmap(file.fileno(), 16) as counted:
        total = 0

        def take_and_count(self: PatientProtocol, data: bytes) -> None:
            nonlocal total
            total += len(data)
            counted[:8] = struct.pack("q", total)
            take(self, data)

        def note() -> None:
            if counted[8:] == bytes(8):
                counted[8:] = struct.pack("q", total)

        def refuse_and_note(self: PatientProtocol, words: str) -> None:
            note()
            refuse(self, words)

        async def call_and_note(self: ServeGuard, scope: Any, receive: Any, send: Any) -> None:
            async def send_and_note(message: Any) -> None:
                if message.get("status", 0) >= 400:
                    note()
                await send(message)

            await call(self, scope, receive, send_and_note)

        for kind, name, function in (
            (PatientProtocol, "data_received", take_and_count),
            (PatientProtocol, "send_400_response", refuse_and_note),
            (ServeGuard, "__call__", call_and_note),
        ):
            setattr(kind, name, function)
        serve.serve_model(serve.open_decoder, (False,), 1)


def main() -> None:
    """Measure, print, and leave with 1 if a line of the bar does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", help="Names of requests.")
    parser.add_argument("--patience", type=float, default=45.0, help="Seconds of a request.")
    parser.add_argument("--count", type=Path, help="Serve, and count what is read in this file.")
    parser.add_argument("--out", type=Path, help="JSON file of the figures.")
    options = parser.parse_args()
    if options.count is not None:
        serve_counted(options.count)
        return
    found = {}
    for request in requests():
        if not options.only or request.name in options.only:
            found[request.name] = measure(request, options.patience)
            print(request.name, found[request.name], file=sys.stderr, flush=True)
    tell(summary(found), options.out)
    sys.exit(1 if summary(found)["beyond"] else 0)


def summary(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All of them, and the worst of each figure."""
    figures = ("megabytes_read_until_refused", "megabytes_of_memory", "processor_seconds")
    return {
        "requests": len(found),
        **{f"most_{name}": max(each[name] for each in found.values()) for name in figures},
        "dead": sum(not each["is_alive"] for each in found.values()),
        "each": found,
        "beyond": [f"{name}: {', '.join(each['beyond'])}" for name, each in found.items()
                   if each["beyond"]],
    }  # fmt: skip


if __name__ == "__main__":
    main()

r"""Whether everybody who asks ``sppnet serve`` gets the own answer: id D1 of the reliability bar.

    python benchmarks/serve_answers.py stub --out answers.json
    python benchmarks/serve_answers.py model --model RUN/model

``stub``: 20,000 requests over 64 connections, each used again and again, to two workers that answer
with the SHA-256 of the pixels that they decoded. Every picture is another one of 16 x 16 pixels, a
PNG or a BMP; every fourth request is a form of two to five, which shares out its photos among the
workers. ``model``: 2,000 pictures of 48 x 36 to 96 x 72 to a model, a small detector if none is
given; every answer is compared with what the model says when it is called here, letter for letter.

Each request is looked at alone: ``lost`` has no answer of 200, or one without an entry, ``mixed``
has an answer of other photos, ``wrong`` one that is of none; ``duplicated`` counts entries that
were given twice, and connections on which something comes after the last answer. With ``--mix 50``
one answer of 50 is that of the photo before: a fault that must be seen. Prints JSON, with those of
the four that are not 0 in ``beyond``; ends with 1 if there is any.
"""

import argparse
import asyncio
import contextlib
import hashlib
import io
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.append(str(Path(__file__).parent / "reliability"))

from bars import tell

import serve
import serve_load

CONNECTIONS = 64
QUEUE = 512  # photos: five of each connection find room
PATIENCE = 60.0  # seconds after which a request counts as lost
SIDE = 16
FAULTS = ("lost", "duplicated", "mixed", "wrong")
BOUNDARY = "a-line-that-no-picture-has"
HEAD = '--{}\r\nContent-Disposition: form-data; name="photo"; filename="{}"\r\n\r\n'


@dataclass(frozen=True)
class Asked:
    """A request: the names that its photos have, their files, and what the answer must say.

    Args:
        names: Of its photos.
        photos: The file of each.
        wanted: The entry of each.
    """

    names: tuple[str, ...]
    photos: tuple[bytes, ...]
    wanted: tuple[str, ...]


class Digests(serve.Decoder):
    """Answers with the digest of what it decoded.

    Args:
        mix: If it is not 0, one answer of so many is that of the photo before.
    """

    def __init__(self, mix: int) -> None:
        super().__init__(decodes=True)
        self.mix, self.count, self.last = mix, 0, ""

    def answer(self, name: str, photo: bytes) -> dict[str, Any]:
        """Decode, and tell the digest where others tell a name."""
        from sppnet.images.decode import decode_content

        pixels = np.asarray(decode_content(photo, name))  # 8 bits a channel stay bytes
        digest, last = digest_of(pixels.transpose(1, 2, 0)), self.last
        self.count, self.last = self.count + 1, digest
        is_mixed = self.mix and last and self.count % self.mix == 0
        return {"file": name, "width": SIDE, "height": SIDE, "labels": [0],
                "names": [last if is_mixed else digest], "scores": [1.0]}  # fmt: skip


def open_digests(mix: int) -> Digests:
    """Read no model."""
    serve.open_decoder(True)
    return Digests(mix)


def digest_of(pixels: "np.ndarray[Any, Any]") -> str:
    """The SHA-256 of rows of red, green and blue."""
    return hashlib.sha256(np.ascontiguousarray(pixels, dtype=np.uint8).tobytes()).hexdigest()


def picture(number: int, width: int, height: int) -> "np.ndarray[Any, Any]":
    """The pixels of a picture that no other number has: noise, and the number in its first ones."""
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[0, :2].flat = np.frombuffer(number.to_bytes(6, "big"), np.uint8)
    return pixels


def file_of(pixels: "np.ndarray[Any, Any]", kind: str) -> bytes:
    """A file that says these pixels exactly."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def digest_requests(count: int) -> list[Asked]:
    """So many requests for digests, of which every fourth is a form; no picture comes twice."""
    draw, number, asked = random.Random(0), 0, []
    for place in range(count):
        names, photos, wanted = [], [], []
        size = draw.randint(2, 5) if place % 4 == 3 else 1
        for _ in range(size):
            pixels = picture(number, SIDE, SIDE)
            names.append(f"{number}.png" if size > 1 else "photo")
            photos.append(file_of(pixels, ("PNG", "BMP")[number % 2]))
            wanted.append(digest_of(pixels))
            number += 1
        asked.append(Asked(tuple(names), tuple(photos), tuple(wanted)))
    return asked


def model_requests(count: int, options: argparse.Namespace) -> list[Asked]:
    """So many requests for what a model says, which is asked here first."""
    model, asked = serve.open_here(options, 1), []
    for number in range(count):
        scale = 1 + number % 5 / 4
        photo = file_of(soft_picture(number, round(48 * scale), round(36 * scale)), "PNG")
        said = json.loads(json.dumps(model.answer("photo", photo)))
        asked.append(Asked(("photo",), (photo,), (json.dumps(said),)))
    return asked


def soft_picture(number: int, width: int, height: int) -> "np.ndarray[Any, Any]":
    """A picture with a few soft things in it, so that proposals differ."""
    small = Image.fromarray(picture(number, 6, 5))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def request_bytes(host: str, asked: Asked) -> bytes:
    """A request as it is sent: a photo, or a form of several."""
    kind, body = "image/png", asked.photos[0]
    if len(asked.photos) > 1:
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        body = b"".join(
            HEAD.format(BOUNDARY, name).encode() + photo + b"\r\n"
            for name, photo in zip(asked.names, asked.photos, strict=True)
        )
        body += f"--{BOUNDARY}--\r\n".encode()
    head = f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def ask_all(host: str, asked: Sequence[Asked]) -> tuple[list[tuple[int, bytes]], int]:
    """Ask over 64 connections: status and body of each, and how many of them had more to say.

    Args:
        host: To ask.
        asked: Requests; each connection takes the next one as soon as it has its answer.
    """
    name, port = host.split(":")
    answers: list[tuple[int, bytes]] = [(0, b"")] * len(asked)
    places = iter(range(len(asked)))
    extra = 0

    async def ask(reader: asyncio.StreamReader, place: int) -> None:
        said = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(said.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        answers[place] = int(said.split(None, 2)[1]), await reader.readexactly(length)

    async def connect() -> None:
        nonlocal extra
        reader, writer = await asyncio.open_connection(name, int(port))
        for place in places:
            writer.write(request_bytes(host, asked[place]))
            try:
                await asyncio.wait_for(ask(reader, place), PATIENCE)
            except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
                writer.close()
                reader, writer = await asyncio.open_connection(name, int(port))
        with contextlib.suppress(TimeoutError):  # nothing comes
            extra += len(await asyncio.wait_for(reader.read(1), 0.5))
        writer.close()

    await asyncio.gather(*(connect() for _ in range(CONNECTIONS)))
    return answers, extra


def entries_of(body: bytes) -> list[tuple[str, str]]:
    """The name of each photo in an answer, and what is said of it; empty if it is no answer."""
    try:
        images = json.loads(body)["images"]
    except (ValueError, KeyError, TypeError):
        return []
    return [(each["file"], text_of(each)) for each in images if "error" not in each]


def text_of(entry: dict[str, Any]) -> str:
    """A digest, or all that a model says."""
    names = entry.get("names") or [""]
    return str(names[0]) if len(names[0]) == 64 else json.dumps(entry)


def judge(
    asked: Sequence[Asked], answers: Sequence[tuple[int, bytes]], extra: int
) -> dict[str, Any]:
    """Count the right, lost, duplicated, mixed and wrong answers.

    Args:
        asked: Requests.
        answers: Status and body of each.
        extra: Connections on which more came than was asked for.
    """
    owner = {text: place for place, each in enumerate(asked) for text in each.wanted}
    is_unique = len(owner) == sum(len(each.photos) for each in asked)
    given: Counter[str] = Counter()
    counts = dict.fromkeys(("correct", *FAULTS), 0)
    for each, (status, body) in zip(asked, answers, strict=True):
        found = entries_of(body) if status == 200 else []
        given.update(text for _, text in found)
        if not found:
            counts["lost"] += 1
        elif found == list(zip(each.names, each.wanted, strict=True)):
            counts["correct"] += 1
        else:
            counts["mixed" if all(text in owner for _, text in found) else "wrong"] += 1
    counts["duplicated"] = extra
    if is_unique:  # a model may say the same of two pictures
        counts["duplicated"] += sum(count - 1 for count in given.values())
    statuses = Counter(str(status) for status, _ in answers)
    return {
        "requests": len(asked),
        "photos": sum(len(each.photos) for each in asked),
        "different_answers": len(owner),
        **counts,
        "statuses": dict(statuses),
        "beyond": [name for name in FAULTS if counts[name]],
    }


def bench(words: Sequence[str], asked: Sequence[Asked]) -> dict[str, Any]:
    """Ask a server that is started so."""
    with serve.serving(*words) as server:
        begin = time.monotonic()
        answers, extra = asyncio.run(ask_all(server.host, asked))
        seconds = time.monotonic() - begin
        lost = server.figure("sppnet_workers_lost")
    found = judge(asked, answers, extra)
    return {**found, "a_second": round(len(asked) / seconds, 1), "workers_lost": lost}


def bench_stub(options: argparse.Namespace) -> dict[str, Any]:
    """Digests."""
    words = (__file__, "serve", "--mix", str(options.mix))
    return bench(words, digest_requests(options.requests or 20_000))


def bench_model(options: argparse.Namespace) -> dict[str, Any]:
    """What a model says."""
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            options.model = Path(folder) / "model"
            serve_load.save_detector(options.model)
        words = serve.command(options, "--workers", "2", "--queue", str(QUEUE))
        return bench(words, model_requests(options.requests or 2000, options))


def main() -> None:
    """Ask, print, and leave with 1 if an answer is not the own one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["stub", "model", "serve"])
    parser.add_argument("--model", type=Path, help="Folder of a model; a small one if not given.")
    parser.add_argument("--requests", type=int, default=0, help="0 for the usual number.")
    parser.add_argument("--mix", type=int, default=0, help="Of stub: one of so many is mixed up.")
    parser.add_argument("--out", type=Path, help="JSON file of the figures.")
    options = parser.parse_args()
    if options.what == "serve":
        serve.serve_model(open_digests, (options.mix,), 2, QUEUE)
        return
    found = (bench_stub if options.what == "stub" else bench_model)(options)
    tell(found, options.out)
    sys.exit(1 if found["beyond"] else 0)


if __name__ == "__main__":
    main()

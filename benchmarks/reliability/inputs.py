r"""Bad and odd inputs, counted: ids A1, A3, A5, A7, A8, A11 and C10 of docs/reliability.md.

    python benchmarks/reliability/inputs.py truncated

``truncated``: small pictures of eight formats, cut at every byte: an error of ours each time, or,
where only bytes after the last pixel are gone, the pixels of the whole file. ``shapes``: every size
from 1 x 1 to 64 x 64, and strips of up to 20,000 pixels, through a classifier and through the
pooling of a region. ``bombs``: small files of very large pictures are refused, and small pictures
whose files hold profiles, texts or frames without end are read, with seconds and memory.
``refusals``: models that are damaged, hostile or of another format, some of 100 MB, each with
seconds and memory. ``trees``: a folder of 100,000 files is listed. ``batch``: 1,000 photos, every
fifth of which is damaged, are classified by the command, and the 800 good ones alone by another run
of it. ``memory``: photos of 0.01 to 99 million pixels and of any aspect through both commands of
prediction, whose most memory must be below 2 GiB. Prints JSON.
"""

import argparse
import csv
import io
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

sys.path.append(str(Path(__file__).parents[2] / "tests"))
sys.path.append(str(Path(__file__).parents[1]))

from laws import plain_detector

from image_files import encode, encoded_formats, photo, tree_hash
from serve import png_of
from small_photos import draw_folders
from sppnet.errors import InputError, SppnetError, UnusableFileError
from sppnet.images import decode_image, list_images, load_image

SLOW_SECONDS = 2.0
MOST_MEGABYTES = 2048
LEAST_SHARE = 0.9  # of the good photos a second that a run without bad ones looks at
STRIPS = [(1, 100), (100, 1), (1, 1000), (1000, 1), (1, 20_000), (20_000, 1)]


def peak_megabytes() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def start_of_peak() -> float:
    """Forget the most memory so far, of which importing torch took more than any work since.

    Returns:
        What the process holds now, in megabytes; ``peak_since`` is the most from now on.
    """
    Path("/proc/self/clear_refs").write_text("5")
    return _megabytes_of("VmRSS")


def peak_since() -> float:
    """The most memory that this process has held since ``start_of_peak``."""
    return _megabytes_of("VmHWM")


def _megabytes_of(key: str) -> float:
    """A size that Linux tells of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def truncated() -> dict[str, Any]:
    """Cut files at every byte."""
    counts: Counter[str] = Counter()
    slowest = 0.0
    for seed, (height, width) in enumerate([(24, 36), (9, 61), (40, 33)]):
        for name, data in encoded_formats(photo(height, width, seed)).items():
            whole = decode_image(data)
            for length in range(len(data)):
                begin = time.perf_counter()
                try:
                    image = decode_image(data[:length])
                except InputError:
                    counts["refused"] += 1
                except Exception as error:
                    counts[f"wrong: {name} {type(error).__name__}"] += 1
                else:
                    same = torch.equal(image, whole)
                    counts["same pixels" if same else f"wrong: {name} other pixels"] += 1
                slowest = max(slowest, time.perf_counter() - begin)
    files = sum(counts.values())
    wrong = sum(count for kind, count in counts.items() if kind.startswith("wrong"))
    wrong += slowest > SLOW_SECONDS
    figures = {"files": files, "wrong": wrong, "slowest_seconds": round(slowest, 3)}
    return {**figures, "peak_megabytes": round(peak_megabytes()), "counts": dict(counts)}


def shapes() -> dict[str, Any]:
    """Classify pictures of every size, and pool a region of a map of every size."""
    from sppnet.classification import Classifier, View, build_classifier
    from sppnet.pooling import pool_regions

    torch.set_num_threads(1)
    torch.manual_seed(0)
    draw = random.Random(0)
    network = build_classifier("small5", 6, hidden=(32,), feature_norm=1.0)
    classifier = Classifier(network, View("full", 32), ("a", "b", "c", "d", "e", "f"))
    sizes = [(h, w) for h in range(1, 65) for w in range(1, 65)] + STRIPS
    wrong: Counter[str] = Counter()
    for height, width in sizes:
        (found,) = classifier.predict(torch.rand(3, height, width))
        if not found["scores"].isfinite().all() or len(found["scores"]) != 6:
            wrong[f"classify {height} x {width}"] += 1
        x0, y0 = draw.randrange(width), draw.randrange(height)
        region = [0, x0, y0, draw.randint(x0 + 1, width), draw.randint(y0 + 1, height)]
        pooled = pool_regions(torch.rand(1, 8, height, width), torch.tensor([region]), (1, 2, 3, 6))
        if not pooled.isfinite().all() or pooled.shape != (1, 400):
            wrong[f"pool {height} x {width}"] += 1
    return {"sizes": len(sizes), "wrong": sum(wrong.values()), "kinds": dict(wrong.most_common(5))}


def bombs() -> dict[str, Any]:
    """Refuse small files of very large pictures; each in a process of its own."""
    strips = 1_000_000
    values = [(256, 1), (257, strips), (258, 8), (259, 1), (262, 1), (277, 1), (278, 1)]
    tags = [(tag, 4, 1, value) for tag, value in values]
    tags += [(273, 4, strips, 200), (279, 4, strips, 200)]
    body = b"".join(
        tag.to_bytes(2, "little")
        + kind.to_bytes(2, "little")
        + count.to_bytes(4, "little")
        + value.to_bytes(4, "little")
        for tag, kind, count, value in sorted(tags)
    )
    tiff = b"II*\0\x08\0\0\0" + len(tags).to_bytes(2, "little") + body + bytes(4 * strips)
    gif = bytearray(encode(photo(), "GIF"))
    gif[6:10] = b"\xff\xff\xff\xff"
    files = {
        "PNG of 13,000 x 13,000": png_of(13_000, 13_000),
        "GIF of 65,535 x 65,535": bytes(gif),
        "TIFF of 1,000,000 strips": tiff,
    }
    beside = bombs_beside_pixels()
    found, wrong = {}, 0
    with tempfile.TemporaryDirectory() as name:
        for title, data in {**files, **beside}.items():
            path = Path(name) / "bomb"
            path.write_bytes(data)
            command = [sys.executable, __file__, "one-bomb", "--file", str(path)]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            found[title] = {"bytes": len(data), **json.loads(run.stdout)}
            wanted = "read" if title in beside else "E_TOO_LARGE"
            wrong += found[title]["code"] != wanted or found[title]["seconds"] > 0.2
            wrong += found[title]["megabytes_more"] > 30
    return {"files": len(files), "of_small_pictures": len(beside), "wrong": wrong, "each": found}


def bombs_beside_pixels() -> dict[str, bytes]:
    """Small pictures beside which a file holds very much: they are read, the rest is left alone."""
    png, jpeg, gif = (encode(photo(), name) for name in ("PNG", "JPEG", "GIF"))
    zeros = zlib.compress(bytes(100_000_000), 9)

    def with_chunk(kind: bytes, body: bytes, times: int = 1) -> bytes:
        chunk = len(body).to_bytes(4, "big") + kind + body
        chunk += zlib.crc32(kind + body).to_bytes(4, "big")
        return png[:33] + chunk * times + png[33:]

    def exif(size: int, tags: int) -> bytes:
        """Every tag says that its value is all that follows the tags."""
        begin = 8 + 2 + 12 * tags + 4
        rows = (struct.pack("<HHLL", tag, 7, size - begin, begin) for tag in range(1, tags + 1))
        return (b"II*\0\x08\0\0\0" + struct.pack("<H", tags) + b"".join(rows)).ljust(size, b"\0")

    image = gif[13 + 3 * 2 ** ((gif[10] & 7) + 1) : -1]  # what follows the colours, once a frame
    return {
        "PNG, profile of 100 MB": with_chunk(b"iCCP", b"p\0\0" + zeros),
        "PNG, 50 texts of 100 MB": with_chunk(b"zTXt", b"t\0\0" + zeros, 50),
        "PNG, 50 international texts": with_chunk(b"iTXt", b"t\0\1\0\0\0" + zeros, 50),
        "PNG, EXIF of 10,000 large tags": with_chunk(b"eXIf", exif(300_000, 10_000)),
        "JPEG, EXIF of 2,000 large tags": jpeg[:2]
        + struct.pack(">BBH", 0xFF, 0xE1, 65_008)
        + b"Exif\0\0"
        + exif(65_000, 2_000)
        + jpeg[2:],
        "GIF of 100,000 frames": gif[:-1] + image * 100_000 + b";",
    }


def one_bomb(path: Path) -> dict[str, Any]:
    """Load one file: seconds of a processor, memory beyond that of small pictures."""
    for name in ("PNG", "JPEG", "GIF", "TIFF"):
        decode_image(encode(photo(), name))
    before, begin, code = start_of_peak(), time.process_time(), "other pixels"
    try:
        pixels = load_image(path)
        if pixels.shape == (3, *photo().size[::-1]):
            code = "read"
    except SppnetError as error:
        code = error.code
    seconds = time.process_time() - begin
    more = peak_since() - before
    return {"code": code, "seconds": round(seconds, 4), "megabytes_more": round(more, 1)}


def refusals(megabytes: int = 100) -> dict[str, Any]:
    """Refuse models that are damaged, hostile or of another format, some of them large."""
    from sppnet.storage import load_model, save_model
    from sppnet.storage.models import manifest_text
    from sppnet.storage.tensors import tensors_to_bytes

    def header(entries: dict[str, Any], body: bytes) -> bytes:
        text = json.dumps(entries).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + body

    small = {"w": torch.ones(4)}
    large = {"w": torch.ones(megabytes * 2**18)}
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    pickle_of = io.BytesIO()
    torch.save(small, pickle_of)
    mark = Path("sppnet-mark-of-a-pickle")
    hostile = b"cposix\nsystem\n(S'touch " + bytes(mark) + b"'\ntR."
    whole = tensors_to_bytes(large)
    middle = len(whole) // 2
    signed = {
        "0 bytes": b"",
        "a pickle that runs a command": hostile,
        "torch.save": pickle_of.getvalue(),
        "tar of old versions": b"weights".ljust(257, b"\0") + b"ustar" + bytes(10_000),
        "a header of 100,000 tensors": header({f"t{n}": entry for n in range(100_000)}, bytes(4)),
        "overlapping tensors": header({"a": entry, "b": entry}, bytes(4)),
        "a header of 2^40 bytes": (2**40).to_bytes(8, "little") + b"{}",
        "2^60 numbers": header({"a": {**entry, "shape": [2**60]}}, bytes(4)),
        "NaN": tensors_to_bytes({"w": torch.tensor([1.0, float("nan")])}),
        "infinity": tensors_to_bytes({"w": torch.tensor([1.0, float("inf")])}),
    }
    changed = {
        "a flipped bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "the last byte is gone": whole[:-1],
        "one more byte": whole + b"x",
    }
    found, wrong = {}, 0
    with tempfile.TemporaryDirectory() as name:
        for title, data in {**signed, **changed, "another kind": whole, "a folder": b""}.items():
            folder = Path(name) / title.replace("/", " ")
            folder.mkdir()
            listed = whole if title in changed else data
            files = {"config.json": b"{}", "model.safetensors": data}
            for file, content in files.items():
                (folder / file).write_bytes(content)
            files["model.safetensors"] = listed
            kind = "other" if title == "another kind" else "toy"
            (folder / "manifest.json").write_text(manifest_text(kind, files))
            if title == "a folder":
                (folder / "model.safetensors").unlink()
                (folder / "model.safetensors").mkdir()
        del whole, large, changed, signed, data, listed, files, content
        save_model(Path(name) / "whole", "toy", {}, small)
        load_model(Path(name) / "whole", "toy")
        for folder in sorted(Path(name).iterdir()):
            before, begin, code = start_of_peak(), time.process_time(), "read"
            try:
                load_model(folder, "toy")
            except UnusableFileError as error:
                code = error.code
                wrong += error.exit_code != 5 or "\n" in str(error)
            seconds = time.process_time() - begin
            more = peak_since() - before
            wrong += (code == "read") != (folder.name == "whole")
            wrong += seconds > 2 or more > 200
            found[folder.name] = {
                "code": code,
                "seconds": round(seconds, 3),
                "megabytes_more": round(more, 1),
            }
    wrong += mark.exists()
    slowest = max(each["seconds"] for each in found.values())
    most = max(each["megabytes_more"] for each in found.values())
    figures = {"models": len(found), "wrong": wrong, "slowest_seconds": slowest}
    return {**figures, "megabytes_more": most, "each": found}


def trees(files: int = 100_000) -> dict[str, Any]:
    """List a folder of very many files."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        for number in range(files):
            os.close(os.open(f"{name}/{number}.jpg", os.O_CREAT | os.O_WRONLY))
        before, begin = start_of_peak(), time.process_time()
        listed = len(list_images([name]).paths)
        seconds = time.process_time() - begin  # of a processor: others may be busy here
    more = peak_since() - before
    wrong = (listed != files) + (seconds > 5) + (more > 200)
    figures = {
        "files": listed,
        "processor_seconds": round(seconds, 2),
        "megabytes_more": round(more, 1),
    }
    return {**figures, "wrong": wrong}


def batch(good: int = 800, bad: int = 200) -> dict[str, Any]:
    """Classify good and damaged photos by the command, and the good ones alone."""
    from sppnet.classification import Classifier, View, build_classifier

    torch.manual_seed(0)
    draw = random.Random(0)
    network = build_classifier("small5", 3, hidden=(32,), feature_norm=1.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Classifier(network, View("full", 32), ("a", "b", "c")).save(folder / "model")
        photos = sorted(draw_folders(folder / "drawn", (good + 2) // 3).rglob("*.png"))[:good]
        for number, path in enumerate(photos):
            for kind in ("alone", "mixed"):
                (folder / kind).mkdir(exist_ok=True)
                (folder / kind / f"{number:04d}.png").write_bytes(path.read_bytes())
        samples = list(encoded_formats(photo()).values())
        spoilt: list[Callable[[bytes], bytes]] = [
            lambda data: data[:0],
            lambda data: data[: len(data) // 2],
            lambda data: b"no image at all" + data[15:],
            lambda data: data[:12],
            lambda _: png_of(13_000, 13_000),
        ]
        for number in range(bad):
            data = draw.choice(spoilt)(draw.choice(samples))
            (folder / "mixed" / f"{draw.randrange(10_000):04d}-{number}.jpg").write_bytes(data)
        before = tree_hash(folder / "mixed")
        (folder / "one").mkdir()
        (folder / "one" / "0.png").write_bytes(photos[0].read_bytes())
        # the one alone takes what beginning takes; twice, as other work may come between
        tries = [
            {kind: _classify(folder, kind) for kind in ("one", "alone", "mixed")} for _ in range(2)
        ]
        changed = before != tree_hash(folder / "mixed")
    spent = {kind: min(runs[kind]["seconds"] for runs in tries) for kind in tries[0]}
    rates = {kind: good / (spent[kind] - spent["one"]) for kind in ("alone", "mixed")}
    share, runs = rates["mixed"] / rates["alone"], tries[0]
    alone, mixed = runs["alone"]["answers"], runs["mixed"]["answers"]
    same = sum(answer == mixed[name] for name, answer in alone.items())
    errors, codes = runs["mixed"]["errors"], [runs[kind]["code"] for kind in ("alone", "mixed")]
    wrong = (same != good) + (codes != [0, 3]) + (errors != bad) + changed + (share < LEAST_SHARE)
    figures = {"photos": good + bad, "good": good, "equal": same, "errors": errors}
    figures |= {"codes": codes, "inputs_changed": changed, "share_of_rate": round(share, 3)}
    return {**figures, "good_a_processor_second": round(rates["mixed"]), "wrong": wrong}


def _classify(folder: Path, kind: str) -> dict[str, Any]:
    """Run the command: code, what it says of each photo, errors, seconds of a processor."""
    out = folder / f"of-{kind}"
    words = ["classify", "predict", folder / "model", folder / kind, "--out", out, "--fresh"]
    command = [sys.executable, "-m", "sppnet", *map(str, words)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = json.loads((out / "predictions.json").read_bytes())
    answers = {
        each["file"]: {key: value for key, value in each.items() if key != "path"}
        for each in found["images"]
    }
    lines = sum(line.startswith("sppnet: error: ") for line in run.stderr.splitlines())
    errors = lines if lines == len(found["failed"]) else -1
    return {"code": run.returncode, "answers": answers, "errors": errors, "seconds": seconds}


def memory(count: int = 40) -> dict[str, Any]:
    """Predict on photos of all sizes; the most memory that each command has held."""
    from sppnet.classification import Classifier, View, build_classifier

    torch.manual_seed(0)
    draw, pixels = random.Random(0), 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        for number in range(count):
            share = number / max(1, count - 1)
            area, aspect = 1e4 * 9900**share, 2 ** draw.uniform(-3, 3)
            height = max(1, round((area / aspect) ** 0.5))
            size = (max(1, int(area / height)), height)
            pixels += size[0] * size[1] / 1e6
            gradient = Image.linear_gradient("L").rotate(draw.uniform(0, 360)).resize(size)
            gradient.convert("RGB").save(folder / "photos" / f"{number:04d}.jpg")
        network = build_classifier("small5", 3, hidden=(32,), feature_norm=1.0)
        Classifier(network, View("full", 224), ("a", "b", "c")).save(folder / "classify")
        plain_detector("graph", flip=False, side=224).save(folder / "detect")
        each = {kind: _predict(folder, kind) for kind in ("classify", "detect")}
    wrong = sum(
        one["code"] != 0 or one["answered"] != count or one["megabytes"] > MOST_MEGABYTES
        for one in each.values()
    )
    peaks = {kind: one["megabytes"] for kind, one in each.items()}
    figures = {"photos": count, "million_pixels": round(pixels), "peak_megabytes": peaks}
    return {**figures, "wrong": wrong, "each": each}


def _predict(folder: Path, kind: str) -> dict[str, Any]:
    """Run a command over all photos: its code, what it held at most, how many were answered."""
    out = folder / f"of-{kind}"
    words = [kind, "predict", folder / kind, folder / "photos", "--threads", "1", "--out", out]
    run = subprocess.Popen(
        [sys.executable, "-m", "sppnet", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(run.pid, 0)
    code, peak = os.waitstatus_to_exitcode(status), round(usage.ru_maxrss / 1024)
    return {"code": code, "megabytes": peak, "answered": _answered(out, kind) if not code else 0}


def _answered(out: Path, kind: str) -> int:
    """How many photos were answered, by what a command left."""
    if kind == "classify":
        return len(json.loads((out / "predictions.json").read_bytes())["images"])
    with (out / "counts.csv").open(encoding="utf-8", newline="") as file:
        return sum(bool(row["total"]) for row in csv.DictReader(file))  # empty without an answer


WORK: dict[str, Callable[[], dict[str, Any]]] = {
    "truncated": truncated,
    "shapes": shapes,
    "bombs": bombs,
    "refusals": refusals,
    "trees": trees,
    "batch": batch,
    "memory": memory,
}


def main() -> None:
    """Count, print, and leave with 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", choices=[*WORK, "one-bomb"])
    parser.add_argument("--file", type=Path, help="Of one-bomb.")
    chosen = parser.parse_args()
    if chosen.work == "one-bomb":
        print(json.dumps(one_bomb(chosen.file)))
        return
    found = WORK[chosen.work]()
    print(json.dumps(found, indent=1))
    sys.exit(1 if found["wrong"] else 0)


if __name__ == "__main__":
    main()

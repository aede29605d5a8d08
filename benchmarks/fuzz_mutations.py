"""Ways to spoil bytes, texts, JSON, XML, YAML and tables, drawn by a ``random.Random``."""

import json
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from random import Random
from typing import Any

MOST_BYTES = 1 << 22  # what grows stays below this
EDGES = (0, 1, 2, 7, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
NUMBERS = (
    "", "-1", "0", "-0.0", "1", "1.0", "1e+00", "0.5", "1e308", "1e309", "-1e309", "nan", "inf",
    "Infinity", "NaN", "true", "null", "9" * 25, "9" * 5000, "0x10", "1_000", "01", "1,5",
    "\u0663", "\uff11", "2147483648", "18446744073709551616", "1e-320",
)  # fmt: skip
TEXTS = (
    "", " ", "\0", "\x1b[31m", "\x85", "\u2028", "\u202e", "a\nb", "=1+1", "..", "../../etc/passwd",
    "/etc/passwd", "C:\\a.jpg", "a" * 300, "b" * 100_000, "%00", "%s%n", "\ud83d\ude00", "é", "[]",
    "{}", '"', "'", "\\", "<![CDATA[", "&amp;", "&x;", "#", "~", "null", "car", "a.jpg", "train",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 0.5, -0.5, 1e308, 10**9, 2**63, 10**400, float("nan"),
    float("inf"), [], {}, [[]], [{}], {"": {}}, [None] * 4, [1, 2], [[1, 2, 3]], ["a"], "x", "1",
)  # fmt: skip
ENCODINGS = ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1", "gbk", "shift_jis", "utf-7")
_TOKEN = re.compile(r"[A-Za-z_][\w.-]*|-?\d+\.?\d*(?:[eE][-+]?\d+)?|\S")
_DEEP = (10, 200, 1100, 30_000)
Change = Callable[[Random, bytes], bytes]


def spoil_bytes(draw: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change bytes at one or several places, most often one; ``others`` are spliced in."""
    spoiled = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        _change_bytes(draw, spoiled, others)
    return bytes(spoiled[:MOST_BYTES])


def _change_bytes(draw: Random, data: bytearray, others: Sequence[bytes]) -> None:
    """Make one change in place; the beginning, where headers are, is hit more often."""
    reach = len(data) if draw.random() < 0.5 else min(len(data), 200)
    at = draw.randrange(reach) if reach else 0
    end = min(len(data), at + draw.choice((1, 2, 4, 16, 100, 5000)))
    way = draw.randrange(10)
    if way <= 2 and data:
        data[at] ^= 1 << draw.randrange(8)
    elif way == 3 and data:
        data[at] = draw.choice((0, 1, 127, 128, 254, 255, draw.randrange(256)))
    elif way == 4:
        size = draw.choice("BHIQ")
        number = struct.pack(draw.choice("<>") + size, _edge(draw, size))
        data[at : at + len(number)] = number
    elif way == 5:
        del data[at if draw.random() < 0.5 else draw.randrange(len(data) + 1) :]
    elif way == 6:
        del data[at:end]
    elif way == 7:
        data[at:at] = data[at:end] * draw.choice((1, 2, 50))
    elif way == 8:
        data[at:end] = draw.randbytes(end - at)
    elif others:
        other = draw.choice(others)
        cut = draw.randrange(len(other) + 1)
        data[at:] = other[cut:]


def _edge(draw: Random, size: str) -> int:
    """A number near which things go wrong, cut to its size."""
    bits = 8 * struct.calcsize("=" + size)
    return (draw.choice(EDGES) * draw.choice((1, 1, -1))) % (1 << bits)


def spoil_text(draw: Random, data: bytes) -> bytes:
    """Change words, numbers, lines or the encoding of a text."""
    text = data.decode("utf-8", "replace")
    for _ in range(draw.choice((1, 1, 2, 5))):
        text = draw.choice((_change_token, _change_token, _change_token, _change_lines))(draw, text)
    if draw.random() < 0.1:
        return text.encode(draw.choice(ENCODINGS), "replace")
    if draw.random() < 0.1:
        text = text.replace("\n", draw.choice(("\r\n", "\r", "\n\n", "\x0b", "")))
    return text[:MOST_BYTES].encode("utf-8", "replace")


def _change_token(draw: Random, text: str) -> str:
    """Put a hostile word or number in the place of one, or take it away or double it."""
    tokens = list(_TOKEN.finditer(text))
    if not tokens:
        return draw.choice(TEXTS)
    token = draw.choice(tokens)
    new = draw.choice((draw.choice(NUMBERS), draw.choice(TEXTS), token[0] * 2, token[0] + " 1"))
    if draw.random() < 0.1:
        new = draw.choice(tokens)[0]
    return text[: token.start()] + new + text[token.end() :]


def _change_lines(draw: Random, text: str) -> str:
    """Drop, double, swap, cut or repeat lines."""
    lines = text.split("\n")
    i, j = draw.randrange(len(lines)), draw.randrange(len(lines))
    way = draw.randrange(5)
    if way == 0:
        del lines[i]
    elif way == 1:
        lines.insert(i, lines[j])
    elif way == 2:
        lines[i], lines[j] = lines[j], lines[i]
    elif way == 3:
        lines[i] = lines[i][: draw.randrange(len(lines[i]) + 1)]
    else:
        lines[i:i] = [lines[i]] * draw.choice((2, 100, 3000))
    return "\n".join(lines)


def spoil_json(draw: Random, data: bytes) -> bytes:
    """Change values of a JSON text by their place; at times its text."""
    try:
        value = json.loads(data)
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            value = change_value(draw, value)
        text = json.dumps(value)
    except (ValueError, RecursionError):  # it was changed before
        return spoil_text(draw, data)
    way = draw.randrange(12)
    if way == 0:
        return spoil_text(draw, text.encode())
    if way == 1:  # a key that stands twice
        text = text.replace('{"', '{"id": 1, "images": 7, "', draw.choice((1, 3)))
    if way == 2:
        deep = draw.choice(_DEEP)
        nested = (
            "[" * deep + "]" * deep if draw.random() < 0.5 else '{"a":' * deep + "1" + "}" * deep
        )
        text = _change_number(draw, text, nested)
    if way == 3:
        text = _change_number(draw, text, draw.choice(NUMBERS))
    return text.encode(draw.choice(ENCODINGS) if way == 4 else "utf-8", "replace")


def _change_number(draw: Random, text: str, new: str) -> str:
    """Put a text in the place of a number of a JSON text."""
    found = list(re.finditer(r"-?\d+(\.\d+)?", text))
    if not found:
        return new
    place = draw.choice(found)
    return text[: place.start()] + new + text[place.end() :]


def change_value(draw: Random, value: Any) -> Any:
    """Give a copy of plain values with one place replaced, removed, doubled or added to."""
    copy = deepcopy(value)
    places = list(_places(copy))
    if not places:
        return draw.choice(VALUES)
    parent, key = draw.choice(places)
    way = draw.randrange(8)
    if way == 0:
        del parent[key]
    elif way == 1 and isinstance(parent, list):
        parent[key:key] = [deepcopy(parent[key]) for _ in range(draw.choice((1, 2, 100)))]
    elif way == 2 and isinstance(parent, dict):
        parent[draw.choice(TEXTS)] = deepcopy(parent[key])
    elif way == 3:
        parent[key] = draw.choice(TEXTS)
    elif way == 4:
        parent[key] = deepcopy(_at(draw.choice(places)))
    elif way == 5 and isinstance(parent[key], int | float) and abs(parent[key]) < 1e300:
        parent[key] *= draw.choice((-1, 0, 2, 0.5, 1000, 1e12))
    else:
        parent[key] = deepcopy(draw.choice(VALUES))
    return copy


def _at(place: tuple[Any, Any]) -> Any:
    return place[0][place[1]]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key of a tree of plain values."""
    if not isinstance(value, dict | list):
        return
    for key, item in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        yield from _places(item)


def spoil_xml(draw: Random, data: bytes) -> bytes:
    """Change elements of an XML text: dropped, doubled, nested, with entities, or its words."""
    text = data.decode("utf-8", "replace")
    elements = list(re.finditer(r"<(\w+)[^<>]*>[^<>]*</\1>", text))
    way = draw.randrange(10)
    if way >= 5 or not elements:
        return spoil_text(draw, data)
    element = draw.choice(elements)
    deep = draw.choice(_DEEP)
    new = {
        0: "",
        1: element[0] * draw.choice((2, 100)),
        2: f"<{element[1]}>" * deep + f"</{element[1]}>" * deep,
        3: element[0].replace(">", ' a="1" xmlns="urn:x">', 1),
        4: f"<{element[1]}>{draw.choice(('&x;', '&lt;', '&#0;', '&#x110000;', '<![CDATA[7]]>'))}"
        f"</{element[1]}>",
    }[way]
    text = text[: element.start()] + new + text[element.end() :]
    if draw.random() < 0.1:
        head = '<!DOCTYPE x [<!ENTITY x "xxxxxxxx"><!ENTITY y SYSTEM "file:///etc/passwd">]>'
        text = head + text
    if draw.random() < 0.1:
        code = draw.choice((*ENCODINGS, "x-unknown", "utf-8", "idna", "hex", "rot13"))
        text = f'<?xml version="1.0" encoding="{code}"?>' + text
    return text[:MOST_BYTES].encode("utf-8", "replace")


def spoil_yaml(draw: Random, data: bytes) -> bytes:
    """Change a YAML text: anchors, tags, merges, depth, or its words."""
    text = data.decode("utf-8", "replace")
    deep = draw.choice(_DEEP)
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)
    )
    pieces = (
        bomb + "names: *a39\n", "names: &n [*n]\n", "names: !!python/object/apply:os.getcwd []\n",
        "names: " + "[" * deep + "]" * deep + "\n", "? [a, b]\n: c\n", "<<: {names: [a]}\n",
        "names: !!binary aGk=\n", "names: {0: a, 0: b}\n", "names: {1.5: a, .nan: b}\n", "- a\n",
        "names: {-1: a, 99999999999: b}\n", "--- \n", "...\n", "%YAML 9.9\n", "\tnames: [a]\n",
        "nc: 1e9\n", "train: [[a], {b: c}]\n", "val: 2001-01-01\n", "path: ~\n", "path: /\n",
        "names: |\n  a\n", "names: 0x10\n", "train: /etc\n", "path: " + "../" * 50 + "\n",
    )  # fmt: skip
    if draw.random() < 0.5:
        return spoil_text(draw, data)
    lines = text.splitlines(keepends=True) or [""]
    at = draw.randrange(len(lines) + 1)
    last = at + draw.choice((0, 1))
    lines[at:last] = [draw.choice(pieces)]
    return "".join(lines).encode("utf-8", "replace")


def spoil_table(draw: Random, data: bytes) -> bytes:
    """Change cells, columns, quotes or separators of a table."""
    text = data.decode("utf-8", "replace")
    rows = [line.split(",") for line in text.split("\n")]
    way = draw.randrange(8)
    row = draw.choice(rows)
    at = draw.randrange(len(row))
    if way <= 2:
        row[at] = draw.choice(NUMBERS + TEXTS)
    elif way == 3:
        row[at] = '"' + row[at] + draw.choice(("", "\n", "x" * 140_000, '""', '",'))
    elif way == 4:
        del row[at]
    elif way == 5:
        rows = [[cell for n, cell in enumerate(each) if n != at] for each in rows]
    elif way == 6:
        rows.insert(0, [draw.choice(TEXTS)])
    else:
        return spoil_text(draw, data)
    separator = draw.choice((",", ",", ",", ";", "\t", "|"))
    text = "\n".join(separator.join(each) for each in rows)
    return text.encode(draw.choice(ENCODINGS) if draw.random() < 0.1 else "utf-8", "replace")


BY_ENDING: dict[str, Change] = {
    ".json": spoil_json,
    ".xml": spoil_xml,
    ".yaml": spoil_yaml,
    ".csv": spoil_table,
    ".txt": spoil_text,
    ".names": spoil_text,
    ".data": spoil_text,
    ".labels": spoil_text,
}


def spoil_file(draw: Random, data: bytes, ending: str, others: Sequence[bytes] = ()) -> bytes:
    """Change a file as its ending suggests, one time in four byte by byte."""
    change = BY_ENDING.get(ending)
    if change is None or draw.random() < 0.25:
        return spoil_bytes(draw, data, others)
    return change(draw, data)[:MOST_BYTES]

"""What ``sppnet serve`` lets in: who asks, how much they bring, and which photos are in it.

Nothing here decodes a photo, and no URL and no path is taken from a client. A part of a form that
is no file is refused, so that there is no place to write one in; the name of a file is only said
back.
"""

import base64
import hmac
import logging
import platform
import re
import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from sppnet.images.formats import HEAD_BYTES, sniff_format
from sppnet.server.answers import BodyError, raw_answer, refusal
from sppnet.server.local import (
    DISCARD_SECONDS,
    LOOPBACK_NAMES,
    Blocks,
    Guard,
    PatientProtocol,
)
from sppnet.server.workers import WorkerPool

PREDICT, MULTIPART = "/v1/predict", "multipart/form-data"
FORM = "sppnet.form"  # where the form of a request is in its scope
OPEN_PATHS = {"/health", "/ready"}  # that need no token
FORMATS = {"JPEG", "PNG", "WEBP", "GIF", "BMP"}
MOST_BODY = 100_000_000  # bytes of the photos of one request
SMALL_BODY = 65_536  # bytes, of requests that send no photo, and around photos
MOST_NAME, MOST_HEADERS = 255, 20  # letters of a photo's name, header lines of a part
# its warnings are the clients' doing, and would stand in the log without a name before them
logging.getLogger("python_multipart").setLevel(logging.CRITICAL + 1)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:@/\[\]]+)(?::(\d{1,5}))?")
# the whole head of a request for an answer, if it can be read in one way only
_PLAIN_HEAD = re.compile(rb"POST /v1/predict HTTP/1\.1\r\n((?:[\w-]+:[\t -~]*\r\n)+)\r\n")
# a body that is a photo; the last two are what curl and Python's libraries say of bytes untold
_RAW = re.compile(r"image/[\w.+-]+|application/octet-stream|application/x-www-form-urlencoded|")


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Args:
        token: That every request must carry but those of ``OPEN_PATHS``; empty for none.
        names: By which clients may call this machine, beside its own.
        is_local: Whether only this machine can reach the address that is listened on.
    """

    token: str = ""
    names: tuple[str, ...] = ()
    is_local: bool = True

    def refuse(self, headers: Headers, path: str, port: int) -> Response | None:
        """Say why a request is not let in; None if it is.

        Args:
            headers: Of the request.
            path: That it asks for.
            port: That we listen on.
        """
        host = headers.get("host", "").lower()
        if not self._is_known(host, port):
            return refusal("E_HOST")
        own = {f"http://{host}", f"https://{host}"}
        is_opened = headers.get("sec-fetch-mode") == "navigate" and path in ("/", "/docs")
        is_own = headers.get("sec-fetch-site", "none") in ("none", "same-origin") or is_opened
        if not is_own or ("origin" in headers and headers["origin"].lower() not in own):
            return refusal("E_ORIGIN")
        said = headers.get("authorization", "")
        if self.token and path not in OPEN_PATHS and not has_token(said, self.token):
            answer = refusal("E_TOKEN")
            answer.headers["www-authenticate"] = "Bearer"
            return answer
        return None

    def _is_known(self, host: str, port: int) -> bool:
        """Whether a Host header means us: a site may let its own name point to this machine."""
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name, said = match[1], match[2]
        if name in (each.lower() for each in self.names):
            return True
        if self.is_local:
            return name in LOOPBACK_NAMES and said == str(port)
        return name in (*LOOPBACK_NAMES, platform.node().lower()) or _is_address(name.strip("[]"))


def has_token(said: str, token: str, kinds: Container[str] = ("bearer",)) -> bool:
    """Tell whether a header Authorization carries the token, in a time that does not tell it.

    Args:
        said: The header.
        token: What it must carry; of ``basic`` the password.
        kinds: Schemes that are taken, in small letters.

    Example:
        >>> has_token("Bearer secret", "secret"), has_token("Token secret", "secret")
        (True, False)
        >>> has_token("Basic " + base64.b64encode(b"me:secret").decode(), "secret", {"basic"})
        True
    """
    kind, _, given = said.partition(" ")
    if kind.lower() == "basic":
        try:
            text = base64.b64decode(given.strip(), validate=True).decode("utf-8")
        except ValueError:  # no base64, or no text
            return False
        given = text.partition(":")[2]
    is_right = hmac.compare_digest(given.strip().encode(), token.encode())
    return is_right and kind.lower() in kinds


def _is_address(name: str) -> bool:
    """Whether a host is given by number, which no site can claim as its name."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class UploadLimits:
    """What a request may bring.

    Args:
        photos: How many.
        photo_bytes: Of the file of each.
        pixels: Of each, width times height; the children see to it.
    """

    photos: int = 16
    photo_bytes: int = 20_000_000
    pixels: int = 25_000_000

    @property
    def body(self) -> int:
        """Bytes of a body of several photos."""
        return max(self.photo_bytes, min(MOST_BODY, self.photos * self.photo_bytes)) + SMALL_BODY


class BusyProtocol(PatientProtocol):
    """HTTP of which a photo that there is no room for is refused at its first bytes.

    The way through the application takes twice as long (0.4 and 0.2 ms): where five times more is
    asked than can be answered, too little time would be left for answers.
    """

    _unwanted = 0  # bytes of a body

    def data_received(self, data: bytes) -> None:
        """Take what came, or throw it away."""
        if self._unwanted > 0:
            self._throw_away(len(data))
            return
        is_first, found = self.cycle is None and not self.conn.trailing_data[0], None
        if is_first and isinstance(self.app, ServeGuard):
            found = self.app.refuse_first(data)
        if found is None:
            super().data_received(data)
            return
        refused, self._unwanted = found
        self.server_state.total_requests += 1
        self.stop_waiting(DISCARD_SECONDS)
        self.transport.write(raw_answer(refused))
        self._throw_away(0)

    def _throw_away(self, count: int) -> None:
        """So many bytes came; an answer is read only if the connection lasts until the last one."""
        self._unwanted -= count
        if self._unwanted <= 0:
            self.transport.close()


class ServeGuard(Guard):
    """Lets in who may ask, counts what is answered.

    Args:
        app: Answers.
        port: Gives the port that we listen on.
        access: Who may ask.
        limits: Of bodies.
        pool: Whose queue must have room before a photo is read.
        count: Told page, status and seconds of every answer.
    """

    protocol = BusyProtocol

    def __init__(
        self,
        app: Starlette,
        port: Callable[[], int],
        access: Access,
        limits: UploadLimits,
        pool: WorkerPool,
        count: Callable[[str, int, float], None],
    ) -> None:
        super().__init__(app, port, max_body=limits.body)
        self.access, self.limits, self.pool, self.count = access, limits, pool, count
        self._paths = {getattr(route, "path", "") for route in app.routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it; count it."""
        begin, path = time.monotonic(), scope.get("path", "")

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                page = path if path in self._paths else "other"
                self.count(page, message["status"], time.monotonic() - begin)
            await send(message)

        await super().__call__(scope, receive, count)

    def blocks(self, scope: Scope) -> Blocks:
        """Give what keeps a body: a form, which predict finds in the scope, or its bytes."""
        headers = Headers(scope=scope)
        if scope["path"] != PREDICT or media_type(headers) != MULTIPART:
            return super().blocks(scope)
        form = scope[FORM] = Form(headers, self.limits)
        return form

    def most_bytes(self, scope: Scope) -> int:
        """Give the bytes of a body: of many photos, of one, or next to none."""
        if scope["path"] != PREDICT:
            return SMALL_BODY
        is_form = media_type(Headers(scope=scope)) == MULTIPART
        return self.limits.body if is_form else self.limits.photo_bytes

    def refuse(self, scope: Scope, headers: Headers) -> Response | None:
        """Say why a request is not let in, before a byte of its body is read."""
        refused = self.access.refuse(headers, scope["path"], self.port())
        if refused is not None or (scope["method"], scope["path"]) != ("POST", PREDICT):
            return refused
        kind = media_type(headers)
        if kind != MULTIPART and not _RAW.fullmatch(kind):
            return refusal("E_MEDIA")
        if headers.get("content-encoding", "identity") != "identity":
            return refusal("E_ENCODING")
        if self.pool.is_full:
            return refusal("E_BUSY", self.pool.seconds_until_room())
        return None

    def refuse_first(self, data: bytes) -> tuple[Response, int] | None:
        """Refuse a photo for which there is no room; None leaves it to the usual way.

        Args:
            data: The first that came on a connection.

        Returns:
            The answer, and how many bytes of the body are still to come.
        """
        head = _PLAIN_HEAD.match(data) if self.pool.is_full else None
        if head is None:
            return None
        lines = (line.partition(b":") for line in head[1].splitlines())
        headers = Headers(raw=[(name.lower(), value.strip()) for name, _, value in lines])
        is_plain = len(set(headers.keys())) == len(headers.raw) and "expect" not in headers
        length = headers.get("content-length", "")
        if not is_plain or "transfer-encoding" in headers or not re.fullmatch(r"\d{1,9}", length):
            return None
        scope = {"method": "POST", "path": PREDICT}
        refused = self.refuse(scope, headers)
        if refused is None or refused.status_code != HTTPStatus.TOO_MANY_REQUESTS:
            return None
        if int(length) > self.most_bytes({**scope, "headers": headers.raw}):
            return None
        self.count(PREDICT, refused.status_code, 0.0)
        return refused, int(length) - (len(data) - head.end())


def media_type(headers: Headers) -> str:
    """The kind of a body, without what stands behind it."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


Photo = tuple[str, bytes]  # its name and its file


def photo_fault(photo: bytes, limits: UploadLimits) -> str:
    """The code of what is wrong with a photo as far as its length and its first bytes tell.

    Example:
        >>> photo_fault(b"%!PS-Adobe", UploadLimits()), photo_fault(b"GIF89a...", UploadLimits())
        ('E_FORMAT', '')
    """
    if len(photo) > limits.photo_bytes:
        return "E_TOO_LARGE"
    if not photo:
        return "E_EMPTY"
    return "" if sniff_format(photo[:HEAD_BYTES]) in FORMATS else "E_FORMAT"


class Form(Blocks):
    r"""Finds the photos of a form while it comes; what is none is refused before it is there.

    Of a photo that is too large so much is kept that :func:`photo_fault` sees it; one of half as
    many bytes more is the end of the form.

    Args:
        headers: Of the request.
        limits: Of photos.

    Example:
        >>> headers = Headers({"content-type": "multipart/form-data; boundary=x"})
        >>> form = Form(headers, UploadLimits())
        >>> head = b'--x\r\nContent-Disposition: form-data; name="p"; filename="a.png"\r\n\r\n'
        >>> form.take(head + b"\x89PNG...\r\n--x--\r\n")
        7
        >>> form.photos()
        [('a.png', b'\x89PNG...')]
    """

    def __init__(self, headers: Headers, limits: UploadLimits) -> None:
        super().__init__()
        self._most, self._most_bytes = limits.photos, limits.photo_bytes
        self._photos: list[Photo] = []
        self._is_whole, self._after = False, 0
        self._kept = 0
        self._begin()
        boundary = parse_options_header(headers["content-type"])[1].get(b"boundary", b"")
        self._parser = None
        if 0 < len(boundary) <= 200:
            self._parser = MultipartParser(boundary, self._callbacks())

    def take(self, block: bytes) -> int:
        """Take what came of the form."""
        self._after += len(block) if self._is_whole else 0
        if self._parser is None or self._after > SMALL_BODY:
            raise BodyError("E_MULTIPART")
        before = self._kept
        try:
            self._parser.write(block)
        except (FormParserError, ValueError) as error:
            raise BodyError("E_MULTIPART") from error
        return self._kept - before

    def photos(self) -> list[Photo]:
        """Give a name and the bytes of each photo.

        Raises:
            BodyError: If the form is not whole, or has none.
        """
        if not self._is_whole:
            raise BodyError("E_MULTIPART")
        if not self._photos:
            raise BodyError("E_NOTHING")
        return self._photos

    def _callbacks(self) -> Any:
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_begin": self._begin_header,
            "on_header_field": lambda data, a, b: self._field.extend(data[a:b]),
            "on_header_value": lambda data, a, b: self._value.extend(data[a:b]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": lambda data, a, b: self._keep(data[a:b]),
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        if len(self._photos) == self._most:
            raise BodyError("E_PHOTOS")
        self._name: bytes | None = None
        self._photo = bytearray()
        self._size = self._headers = 0
        self._begin_header()

    def _begin_header(self) -> None:
        self._field, self._value = bytearray(), bytearray()
        self._headers += 1
        if self._headers > MOST_HEADERS:
            raise BodyError("E_MULTIPART")

    def _end_header(self) -> None:
        if bytes(self._field).lower() == b"content-disposition":
            self._name = parse_options_header(bytes(self._value))[1].get(b"filename")

    def _end_headers(self) -> None:
        if self._name is None:  # a text, such as a URL or a path: none is ever taken
            raise BodyError("E_VALUE")

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > 1.5 * self._most_bytes:
            raise BodyError("E_TOO_LARGE")
        part = data[: max(0, self._most_bytes + 1 - len(self._photo))]
        self._photo += part
        self._kept += len(part)

    def _end(self) -> None:
        self._photos.append((plain_name(self._name or b""), bytes(self._photo)))

    def _finish(self) -> None:
        self._is_whole = True


def plain_name(said: bytes) -> str:
    r"""The last part of what a client calls a photo; it is only ever said back.

    Example:
        >>> [plain_name(each) for each in (b"a.jpg", b"../../etc/passwd", b"C:\\x\\y.png", b"/")]
        ['a.jpg', 'passwd', 'y.png', 'photo']
    """
    last = said.decode("utf-8", "replace").replace("\\", "/").rstrip("/").rpartition("/")[2]
    return last[-MOST_NAME:] or "photo"

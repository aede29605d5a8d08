"""A person at the page of ``sppnet label``: the real server, a real browser, pointer and keys."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
# learns in a second; what it finds is poor, and the page does not mind
TINY = ["--backbone", "small5", "--weights", "none", "--imgsz", "96", "--proposals", "grid"]
WAIT = 60_000  # milliseconds, on a busy machine


def find_browser() -> str | None:
    """Where the browser lies, if one is installed."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class LabelServer:
    """The command in a process of its own, on a port that stays when it is started again."""

    def __init__(self, photos: Path, *options: str) -> None:
        self.photos, self.options = photos, options
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start, and wait until it says its address."""
        command = [sys.executable, "-m", "sppnet", "label", str(self.photos), "--no-browser"]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), "--threads", "1", *self.options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/", line.strip())
        assert found, f"said {line!r}, exit {self.process.poll()}"
        self.port = int(found[1])

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """End it, if it still runs."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}/"

    def ask(self, path: str) -> Any:
        """What the server answers to a GET, without the page."""
        with urllib.request.urlopen(self.address + path.lstrip("/"), timeout=60) as answer:
            return json.load(answer)

    def put_boxes(self, photo: str, boxes: Sequence[tuple[str, list[float]]]) -> None:
        """Label a photo that has no label yet, without the page."""
        body = {"boxes": [{"box": box, "name": name} for name, box in boxes], "empty": False}
        headers = {"X-Sppnet": "1", "Content-Type": "application/json", "If-Match": '"0"'}
        address = f"{self.address}api/photo/{photo}"
        data = json.dumps(body).encode()
        request = urllib.request.Request(address, data, headers, method="PUT")
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200

    def suggested(self) -> list[str]:
        """Photos that come with suggestions, in order."""
        names = [item["photo"] for item in self.ask("api/photos")["items"]]
        return [
            name for name in names if not self.ask(f"api/photo/{name}")["suggestions"]["withheld"]
        ]

    def boxes(self, photo: str) -> list[tuple[str, list[float]]]:
        """Names and boxes that the server has of a photo."""
        return [(one["name"], one["box"]) for one in self.ask(f"api/photo/{photo}")["boxes"]]


@contextmanager
def running_server(photos: Path, *options: str) -> Iterator[LabelServer]:
    """Run the command, and end it."""
    server = LabelServer(photos, *options)
    server.start()
    try:
        yield server
    finally:
        server.close()


@contextmanager
def running_browser(path: str) -> Iterator[Browser]:
    """Run the browser without a window."""
    player: Playwright
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Person:
    """Somebody with a browser of their own, who sees every request and every complaint of it."""

    def __init__(self, browser: Browser, server: LabelServer, **options: Any) -> None:
        settings: dict[str, Any] = {
            "viewport": {"width": 1000, "height": 640},
            "locale": "en-GB",
            "reduced_motion": "reduce",
            **options,
        }
        self.server = server
        self.context: BrowserContext = browser.new_context(**settings)
        self.context.add_init_script("if (location.port) localStorage['sppnet:threshold'] ??= '0'")
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.page.on("console", lambda m: self._hear(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self._hear(str(error)))

    def _hear(self, text: str) -> None:
        # a refused save and a server that is gone are what some tests are about
        if not re.search(r"Failed to load resource.*(409|net::ERR_)", text):
            self.complaints.append(text)

    def close(self) -> None:
        """Leave; nothing went elsewhere, and the browser had nothing to complain of."""
        self.context.close()
        ours = (self.server.address, "blob:", "data:")
        assert [url for url in self.requests if not url.startswith(ours)] == []
        assert self.complaints == []

    def open(self, photo: str = "") -> None:
        """Open the page, at a photo."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.server.address}#{photo}")
        self.see_photo(photo)

    def see_photo(self, photo: str = "") -> None:
        """Wait until a photo is shown and drawn."""
        named = f".caption .row-name:text-is('{photo}')" if photo else ".caption .row-name"
        self.page.locator(named).wait_for()
        self.page.wait_for_function(
            "() => { const i = document.querySelector('.photo');"
            " return i?.complete && i.naturalWidth > 0 }"
        )

    @property
    def photo(self) -> str:
        """Name of the open photo."""
        return self.page.locator(".caption .row-name").inner_text()

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the photo lies on the screen."""
        left, top, scale = self.page.evaluate(
            "() => { const i = document.querySelector('.photo'), r = i.getBoundingClientRect();"
            " return [r.left, r.top, r.width / Number(i.getAttribute('width'))] }"
        )
        return left + x * scale, top + y * scale

    def draw(self, box: Sequence[float]) -> None:
        """Drag from corner to corner."""
        self.page.mouse.move(*self.place(*box[:2]))
        self.page.mouse.down()
        self.page.mouse.move(*self.place((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), steps=2)
        self.page.mouse.move(*self.place(*box[2:]), steps=2)
        self.page.mouse.up()

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def count(self, selector: str, number: int | None = None) -> int:
        """How many there are of something; waits until there are so many."""
        if number is not None:
            self.page.wait_for_function(
                "([s, n]) => document.querySelectorAll(s).length === n", arg=[selector, number]
            )
        return self.page.locator(selector).count()

    def see_saved(self) -> None:
        """Wait until the page says that everything is saved."""
        self.page.locator(".saving.is-saved").wait_for()

    def see_suggestions(self) -> None:
        """Wait until there are suggestions for the open photo."""
        self.page.locator(".offer").first.wait_for(state="attached")


def write_cards(data: Path, folder: Path, count: int) -> list[str]:
    """Copy photos of playing cards; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = sorted((data / "cards" / "JPEGImages").glob("train_IMG_26*"))[:count]
    for path in chosen:
        shutil.copy(path, folder)
    return [path.name for path in chosen]


def read_cards(data: Path, photo: str) -> list[tuple[str, list[float]]]:
    """Names and boxes of the cards on a photo."""
    path = data / "cards" / "Annotations" / f"{Path(photo).stem}.xml"
    objects = ElementTree.parse(path).getroot().iter("object")
    sides = ("xmin", "ymin", "xmax", "ymax")
    return [
        (str(one.findtext("name")), [float(one.findtext(f"bndbox/{side}", "0")) for side in sides])
        for one in objects
    ]


def near(found: Sequence[float], wanted: Sequence[float], most: float = 1.5) -> bool:
    """Whether a box was drawn as wanted, to about a pixel of the screen."""
    return all(abs(a - b) <= most for a, b in zip(found, wanted, strict=True))

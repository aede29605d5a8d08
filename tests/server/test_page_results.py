"""What a person takes from the page of ``sppnet label``: doubts, reports, models, other classes."""

import html
import re
import shutil
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

import onnx
from playwright.sync_api import Browser, Route

from label_page import TINY, Person, running_server
from sppnet import Detector

FIRST, SECOND = [60.0, 80.0, 200.0, 260.0], [180.0, 300.0, 320.0, 470.0]


def read(address: str) -> bytes:
    """What the server answers, without the page."""
    with urllib.request.urlopen(address, timeout=60) as answer:
        return bytes(answer.read())


def test_doubtful_labels_are_listed_shown_and_dismissed(
    browser: Browser, photos: Path, tmp_path: Path
) -> None:
    with running_server(photos, "--store", str(tmp_path / "store"), *TINY) as server:
        labelled = server.suggested()[:4]
        for photo in labelled:
            server.put_boxes(photo, [("ace", FIRST), ("king", SECOND)])
        person = Person(browser, server)
        person.open(labelled[0])
        person.page.get_by_role("button", name="Look for them").click()
        person.page.locator(".doubts li").first.wait_for()
        count = person.count(".doubts li")
        row = person.page.locator(".doubts li").first
        photo = row.locator(".row-name").inner_text()
        assert photo in labelled
        row.locator("button").first.click()
        person.see_photo(photo)
        person.count(".doubt", 1)  # where it is
        row.get_by_role("button", name="It is right as it is").click()
        person.count(".doubts li", count - 1)
        person.count(".doubt", 0)
        person.close()


def test_the_other_photos_are_run_over_and_the_report_opens(
    browser: Browser, photos: Path, tmp_path: Path
) -> None:
    with running_server(photos, "--store", str(tmp_path / "store"), *TINY) as server:
        first, second = server.suggested()[:2]
        for photo in (first, second):
            server.put_boxes(photo, [("ace", FIRST), ("king", SECOND)])
        person = Person(browser, server)
        person.open(first)
        person.see_suggestions()  # there is a model
        person.page.locator(".menu > button").click()
        person.page.get_by_role("button", name="Run over the photos without labels").click()
        link = person.page.get_by_role("link", name="Open the report")
        link.wait_for()
        with person.context.expect_page() as coming:
            link.click()
        coming.value.wait_for_load_state()
        address = coming.value.url
        assert address.startswith(server.address)
        text = read(address).decode()  # the page itself may run no script
        others = [item["photo"] for item in server.ask("api/photos")["items"]]
        assert sum(name in text for name in others if name not in (first, second)) >= 10
        pictures = set(re.findall(r'<img [^>]*src="([^"]+)"', text))
        assert len(pictures) >= 10
        for picture in pictures:
            data = read(urllib.parse.urljoin(address, html.unescape(picture)))
            assert data.startswith(b"\xff\xd8")
        person.close()


def test_the_detector_is_taken_home(browser: Browser, photos: Path, tmp_path: Path) -> None:
    with running_server(photos, "--store", str(tmp_path / "store"), *TINY) as server:
        first = server.suggested()[0]
        server.put_boxes(first, [("ace", FIRST), ("king", SECOND)])
        person = Person(browser, server)
        person.open(first)
        person.see_suggestions()
        for button, name in (("Download as ONNX", "model.onnx"), ("Save the model", "model.zip")):
            person.page.locator(".menu > button").click()
            with person.page.expect_download() as coming:
                person.page.get_by_role("button", name=button).click()
            coming.value.save_as(tmp_path / name)
        person.close()
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"))
    zipfile.ZipFile(tmp_path / "model.zip").extractall(tmp_path / "model")
    (manifest,) = (tmp_path / "model").rglob("manifest.json")
    assert set(Detector.load(manifest.parent).names) == {"ace", "king"}


def test_many_photos_are_looked_through_at_once(
    browser: Browser, photos: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(photos, tmp_path / "photos", ignore=shutil.ignore_patterns(".sppnet"))
    box = [60.0, 80.0, 200.0, 260.0]
    with running_server(folder, *TINY) as server:
        names = server.suggested()[:3]

        def answer(route: Route) -> None:
            """The photos as they are, with what a model that has seen more would suggest."""
            shown = [server.ask(f"api/photo/{name}") for name in names]
            item = {"box": box, "name": "ace", "score": 1, "confidence": 0.9}
            found = {"model": "1", "withheld": False, "items": [item]}
            route.fulfill(json={"photos": [{**photo, "suggestions": found} for photo in shown]})

        person = Person(browser, server)
        person.page.route("**/api/surest*", answer)
        person.open(names[0])
        person.press("s")
        person.count(".sheet li", 3)
        person.page.locator(".sheet button").nth(1).click()  # it is not right
        person.count(".sheet .is-out", 1)
        person.press("Enter")
        person.count(".sheet li", 0)  # no other photo is sure enough
        person.press("Escape")
        person.count("dialog", 0)
        person.count(".label", 1)  # on the photo that is open, too
        person.see_saved()
        assert [server.boxes(name) for name in names] == [[("ace", box)], [], [("ace", box)]]
        assert person.page.locator(".class-name").first.inner_text() == "ace"
        person.press("z")
        person.count(".label", 0)
        person.close()


def test_a_class_is_renamed_and_merged(browser: Browser, photos: Path, tmp_path: Path) -> None:
    with running_server(photos, "--store", str(tmp_path / "store"), *TINY) as server:
        first, second = server.suggested()[:2]
        server.put_boxes(first, [("ace", FIRST), ("king", SECOND)])
        server.put_boxes(second, [("ace", FIRST)])
        ann, bob = Person(browser, server), Person(browser, server)
        for person in (ann, bob):
            person.open(first)
            person.count(".label", 2)
        ann.page.get_by_role("button", name="Rename or merge “ace”").click()
        ann.page.get_by_label("New name").fill("one")
        ann.page.get_by_role("button", name="Rename", exact=True).click()
        ann.count("dialog", 0)
        for person in (ann, bob):  # Bob sees it without doing anything
            person.page.locator(".boxes .class-name:text-is('one')").wait_for()
        ann.page.get_by_role("button", name="Rename or merge “king”").click()
        ann.page.get_by_label("Make it one with").select_option("one")
        ann.page.get_by_role("button", name="Merge", exact=True).click()
        ann.count(".classes li", 1)
        bob.count(".classes li", 1)
        assert [name for name, _ in server.boxes(first)] == ["one", "one"]
        assert [name for name, _ in server.boxes(second)] == ["one"]
        ann.close()
        bob.close()

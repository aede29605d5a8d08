"""The page of ``sppnet label`` as a person uses it: browser, pointer, keys and the real server."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route

from image_files import write_image
from label_page import (
    TINY,
    LabelServer,
    Person,
    near,
    read_cards,
    running_server,
    write_cards,
)
from sppnet.server.board import overlap

FIRST, SECOND = [60.0, 80.0, 200.0, 260.0], [180.0, 300.0, 320.0, 470.0]

PUT_BOXES = (
    "async boxes => await fetch('/api/photo/00000.jpg', {method: 'PUT',"
    " body: JSON.stringify({boxes, empty: false}),"
    " headers: {'If-Match': '\"0\"', 'X-Sppnet': '1', 'Content-Type': 'application/json'}})"
)


@pytest.fixture(scope="module")
def server(photos: Path) -> Iterator[LabelServer]:
    with running_server(photos, *TINY) as server:
        yield server


def has_class(person: Person) -> None:
    """Each test may run alone: without a class, the first box would ask for one."""
    if person.count(".class") == 0:
        person.page.fill(".add input", "ace")
        person.press("Enter")
        person.page.focus("#stage")


def test_draw_accept_correct_reload_and_a_killed_server(
    browser: Browser, server: LabelServer
) -> None:
    first, second, third = server.suggested()[:3]
    person = Person(browser, server)
    person.open(first)
    person.draw(FIRST)  # the first box asks what it is
    person.page.locator(".name-field input:focus").wait_for()
    person.page.keyboard.type("ace")
    person.press("Enter")
    person.draw(SECOND)  # the next one is of the same class, at once
    person.count(".label", 2)
    person.page.fill(".add input", "king")
    person.press("Enter")
    person.page.focus("#stage")
    person.press("d")
    person.see_photo(second)
    person.press("1")
    person.draw(FIRST)
    person.press("2")  # no, it is a king
    person.press("d")
    person.see_photo(third)

    # suggestions come by themselves; one is accepted, one corrected, one rejected
    person.see_suggestions()
    person.press("Enter")
    person.count(".label", 1)
    person.press("Tab", "2")
    person.count(".label", 2)
    before = person.page.locator(".offers li").count()
    person.press("x")
    assert person.page.locator(".offers li").count() < max(before, 1) or before == 100
    person.see_saved()
    names = [name for name, _ in server.boxes(third)]
    assert names[1] == "king"

    # undo and redo, by pixels too
    person.press("Escape")
    person.draw([10, 10, 60, 60])
    person.press("ArrowRight", "ArrowRight", "Shift+ArrowDown")
    person.see_saved()
    (_, box) = server.boxes(third)[2]
    assert near(box, [12, 10, 62, 61])
    person.press("z")
    person.page.wait_for_function(
        "() => document.querySelector('[aria-keyshortcuts=\"Shift+Z\"]:not(:disabled)')"
    )
    person.press("Shift+Z")
    person.count(".label", 3)

    # the server dies; an edit is kept here, and arrives once it is back
    person.see_saved()
    server.kill()
    person.draw([200, 20, 300, 120])
    person.page.locator(".saving.is-offline").wait_for()
    person.page.locator("role=alert").wait_for()
    server.start()
    person.see_saved()
    assert len(server.boxes(third)) == 4
    person.open()
    assert person.photo == third
    person.count(".label", 4)
    person.open(first)
    person.count(".label", 2)
    assert [name for name, _ in server.boxes(first)] == ["ace", "ace"]
    assert all(
        near(box, want) for (_, box), want in zip(server.boxes(first), (FIRST, SECOND), strict=True)
    )
    assert [name for name, _ in server.boxes(second)] == ["king"]
    person.close()


def test_an_edit_that_was_never_sent_survives_the_page(
    browser: Browser, server: LabelServer
) -> None:
    photo = server.suggested()[3]
    person = Person(browser, server)
    person.open(photo)
    person.context.route("**/api/photo/**", refuse_edits)
    has_class(person)
    person.draw(FIRST)
    person.page.locator(".saving.is-offline").wait_for()
    person.page.goto("about:blank")  # closed before the network was back
    assert server.boxes(photo) == []
    person.context.unroute("**/api/photo/**")
    person.open(photo)
    person.count(".label", 1)
    person.see_saved()
    assert len(server.boxes(photo)) == 1
    person.close()


def refuse_edits(route: Route) -> None:
    """A network that lets no edit through."""
    if route.request.method == "PUT":
        route.abort()
    else:
        route.continue_()


def test_two_people_at_one_photo_lose_nothing(browser: Browser, server: LabelServer) -> None:
    photo = server.suggested()[4]
    ann, bob = Person(browser, server), Person(browser, server)
    for person in (ann, bob):
        person.open(photo)
        has_class(person)
    ann.page.locator(".badge.is-person").wait_for()  # who is where

    ann.draw(FIRST)  # Bob sees it without doing anything
    bob.count(".label", 1)

    # both change the same version: Ann's edit waits in her browser until Bob's is there
    ann.page.route("**/api/photo/**", refuse_edits)
    ann.draw(SECOND)
    ann.page.locator(".saving.is-offline").wait_for()
    bob.press("Escape")
    bob.draw([220, 40, 330, 200])
    bob.see_saved()
    ann.page.unroute("**/api/photo/**")
    ann.page.locator("dialog .versions").wait_for()
    assert ann.count("dialog figure") == 2
    ann.page.get_by_role("button", name="Keep both").click()
    ann.see_saved()
    assert len(server.boxes(photo)) == 3
    bob.count(".label", 3)
    ann.close()
    bob.close()


def test_by_keys_alone(browser: Browser, server: LabelServer) -> None:
    photo = server.suggested()[5]
    person = Person(browser, server)
    person.open(photo)
    has_class(person)
    focused = "() => document.activeElement.closest('#photos, #stage, #side')?.id"
    seen = []
    for _ in range(3):
        seen.append(person.page.evaluate(focused))
        person.press("F6")
    assert seen == ["stage", "side", "photos"]
    person.press("w", "Enter", "ArrowLeft", "Shift+ArrowRight")
    person.count(".label", 1)
    person.press("?")
    person.page.locator("dialog").wait_for()
    assert person.count("dialog kbd") > 20
    person.press("Escape")
    person.count("dialog", 0)
    person.press("h")
    person.count(".overlay", 0)
    person.press("h")
    person.press("Delete", "n")
    person.see_saved()
    assert server.ask(f"api/photo/{photo}")["state"] == "empty"
    nameless = (
        "() => [...document.querySelectorAll('button, input, select, [role]')].filter("
        "e => !(e.ariaLabel || e.innerText || e.labels?.length || e.role === 'status'))"
        ".map(e => e.outerHTML)"
    )
    assert person.page.evaluate(nameless) == []
    person.close()


def test_fingers_on_a_narrow_screen(browser: Browser, server: LabelServer) -> None:
    photo = server.suggested()[6]
    person = Person(
        browser, server, viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True
    )
    person.open(photo)
    width = person.page.evaluate("() => document.documentElement.scrollWidth")
    assert width <= 400
    if not person.count(".class"):
        person.page.evaluate(
            "async () => { const now = await (await fetch('/api/session')).json();"
            " localStorage[`sppnet:classes:${now.store ?? now.folder}`] = JSON.stringify(['ace']) }"
        )
        person.open(photo)
    touch = person.context.new_cdp_session(person.page)
    # what comes late, such as the row of suggestions, may move the photo before a finger is down
    person.page.wait_for_function(
        """async () => {
            const top = () => document.querySelector('.photo').getBoundingClientRect().top;
            const before = top();
            await new Promise(done => setTimeout(done, 400));
            return top() === before;
        }"""
    )

    def send(kind: str, *points: tuple[float, float]) -> None:
        places = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(points)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    x1, y1 = person.place(*FIRST[:2])
    x2, y2 = person.place(*FIRST[2:])
    send("touchStart", (x1, y1))
    send("touchMove", ((x1 + x2) / 2, (y1 + y2) / 2))
    send("touchMove", (x2, y2))
    send("touchEnd")
    person.count(".label", 1)
    before = person.place(0, 0)
    send("touchStart", (150, 400), (250, 400))
    send("touchMove", (100, 400), (300, 400))
    send("touchMove", (50, 400), (350, 400))
    send("touchEnd")
    person.page.wait_for_function(  # larger, about the middle of the fingers
        "x => document.querySelector('.photo').getBoundingClientRect().left < x - 50", arg=before[0]
    )
    person.count(".label", 1)
    person.see_saved()
    assert near(server.boxes(photo)[0][1], FIRST, 2.5)
    # so soon after two fingers the browser may take a tap for a part of their gesture: no click
    person.page.wait_for_timeout(500)
    person.page.get_by_role("button", name="Photos", exact=True).tap()
    person.page.locator(".is-photos").wait_for()
    person.page.locator(".row button").nth(1).tap()
    person.close()


@pytest.mark.parametrize(
    ("locale", "words"), [("de-DE", "beschriftet"), ("zh-CN", "已标注"), ("fr-FR", "labelled")]
)
def test_speaks_the_language_of_the_browser(
    browser: Browser, server: LabelServer, locale: str, words: str
) -> None:
    person = Person(browser, server, locale=locale)
    person.open()
    assert words in person.page.locator(".progress-text").inner_text()
    person.close()


def test_names_whole_photos(browser: Browser, photos: Path, tmp_path: Path) -> None:
    options = ["--task", "classify", "--store", str(tmp_path / "names"), *TINY[:4]]
    with running_server(photos, *options) as server:
        person = Person(browser, server)
        person.open()
        first = person.photo
        for name in ("indoors", "outdoors"):
            person.page.fill(".add input", name)
            person.press("Enter")
        person.page.focus("#stage")
        person.press("2")  # names it, and the next photo comes
        person.page.locator(f".caption .row-name:text-is('{first}')").wait_for(state="detached")
        second = person.photo
        person.see_photo(second)
        person.press("1")
        person.page.locator(f".caption .row-name:text-is('{second}')").wait_for(state="detached")
        person.see_saved()
        person.open(next(name for name in server.suggested() if name not in (first, second)))
        person.page.locator(".guesses li").first.wait_for()  # names with their probability
        named = [server.ask(f"api/photo/{photo}")["names"] for photo in (first, second)]
        assert named == [["outdoors"], ["indoors"]]
        person.close()


def test_labels_are_taken_home(browser: Browser, server: LabelServer, tmp_path: Path) -> None:
    person = Person(browser, server)
    person.open(server.suggested()[7])
    has_class(person)
    person.draw(FIRST)
    person.see_saved()
    person.page.locator(".menu > button").click()
    with person.page.expect_download() as coming:
        person.page.get_by_role("button", name="COCO").click()
    coming.value.save_as(tmp_path / "labels.json")
    assert '"annotations"' in (tmp_path / "labels.json").read_text(encoding="utf-8")
    # a name that is HTML stays a name
    person.page.locator(".menu > button").click()
    person.page.fill(".add input", "<img src=x onerror=alert(1)>")
    person.press("Enter")
    assert person.count(".class-name img") == 0
    assert "<img src=x" in person.page.locator(".classes").inner_text()
    person.close()


@pytest.mark.slow
def test_twenty_boxes_then_suggestions_that_are_right(
    browser: Browser, shared_data: Path, tmp_path: Path
) -> None:
    """The trunk that is the default: what is drawn on 20 photos is suggested on the others."""
    names = write_cards(shared_data, tmp_path / "cards", 30)
    truth = {name: read_cards(shared_data, name) for name in names}
    with running_server(tmp_path / "cards") as server:
        person = Person(browser, server)
        person.open(names[0])
        drawn = 0
        for name in names:
            if drawn >= 20:
                break
            person.open(name)
            for _, box in truth[name]:
                has_class(person)
                person.press("1")
                person.draw(box)
                person.press("Escape")
                drawn += 1
            person.count(".label", len(truth[name]))
            person.see_saved()
        last = server.suggested()[-1]  # not one that comes without
        person.open(last)
        person.see_suggestions()
        person.press("Enter")  # the surest one
        person.see_saved()
        found = [box for _, box in server.boxes(last)]
        assert any(overlap(box, card) > 0.5 for box in found for _, card in truth[last])
        server.kill()
        server.start()
        person.open()
        assert person.photo == last
        assert server.ask("api/session")["state"]["labelled"] >= 6
        person.close()


@pytest.mark.slow
def test_twenty_thousand_photos_and_500_boxes(browser: Browser, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    write_image(folder / "00000.jpg", 5000, 6000)  # 30 million pixels
    write_image(folder / "00001.jpg")
    for number in range(2, 20_000):
        shutil.copyfile(folder / "00001.jpg", folder / f"{number:05d}.jpg")
    with running_server(folder, *TINY) as server:
        person = Person(browser, server)
        begin = time.monotonic()
        person.open("00000.jpg")
        person.page.locator(".row button img").first.wait_for()
        print(f"page ready after {time.monotonic() - begin:.1f} s")
        person.page.wait_for_function(
            "() => document.querySelector('.rows').scrollHeight > 20000 * 50"
        )
        assert person.count(".row") < 60
        person.page.fill(".search input", "19999")
        person.page.locator(".row button:has-text('19999.jpg')").click()
        person.see_photo("19999.jpg")
        has_class(person)
        boxes = [
            {"box": [x * 200.0, y * 240.0, x * 200.0 + 150, y * 240.0 + 150], "name": "thing"}
            for y in range(20)
            for x in range(25)
        ]
        person.page.evaluate(PUT_BOXES, boxes)
        person.open("00000.jpg")
        person.count(".label", 500)
        begin = time.monotonic()
        for _ in range(10):
            person.page.mouse.move(500, 300)
            person.page.mouse.wheel(0, -120)
        person.page.wait_for_function("() => document.querySelectorAll('.label').length < 200")
        print(f"ten steps of the wheel over 500 boxes: {time.monotonic() - begin:.1f} s")
        person.close()

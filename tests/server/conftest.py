"""A folder of small photos, and a label server over a session that learns nothing."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from image_files import write_image
from label_page import find_browser, running_browser, write_cards
from label_people import PORT, Person, StandInSession
from sppnet.labelling.base import list_photos, open_store
from sppnet.server.desk import LabelDesk
from sppnet.server.files import Jobs
from sppnet.server.label_app import build_label_app


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    path = find_browser()
    if path is None:
        pytest.skip("no chromium is installed; .ci/run installs it")
    with running_browser(path) as browser:
        yield browser


@pytest.fixture(scope="module")
def photos(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen photos of playing cards."""
    folder = tmp_path_factory.mktemp("page") / "cards"
    write_cards(shared_data, folder, 14)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos, one of them below and one that is none."""
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    for number, name in enumerate(["a.jpg", "b.png", "sub/c d.jpg"]):
        write_image(photos / name, seed=number)
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photo")
    return photos


def _serve(folder: Path, task: str = "detect", **settings) -> Iterator[SimpleNamespace]:
    """A desk, its client and its session."""
    store = open_store(folder, None, task)
    photos = list_photos(folder)
    session = StandInSession(store, photos, **settings)
    desk = LabelDesk(folder, store, photos, task, lambda: session, "Owner")
    desk.work.settle = 0.02

    def predict(model, photos, out, track) -> None:
        for photo in track(photos, "predicting"):
            shutil.copyfile(photo, out / photo.name)
        (out / "index.html").write_text("<p>found</p>")

    jobs = Jobs(desk, predict)
    app = build_label_app(desk, lambda: PORT, jobs, folder.parent / "page")
    client = TestClient(app, base_url=f"http://127.0.0.1:{PORT}", raise_server_exceptions=False)
    desk.start()
    try:
        yield SimpleNamespace(
            desk=desk, session=session, jobs=jobs, client=client, ann=Person(client),
            bob=Person(client, "Bob"), store=store,
        )  # fmt: skip
    finally:
        desk.close()


@pytest.fixture
def serve() -> Callable[..., Iterator[SimpleNamespace]]:
    """Makes a server over a folder."""
    return _serve


@pytest.fixture
def served(folder: Path) -> Iterator[SimpleNamespace]:
    yield from _serve(folder)


@pytest.fixture
def named(folder: Path) -> Iterator[SimpleNamespace]:
    """A server for names of whole photos."""
    yield from _serve(folder, "classify")

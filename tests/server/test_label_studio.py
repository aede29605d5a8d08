"""Label Studio's back end, asked as Label Studio 1.23.2 asks; its requests were recorded."""

import base64
import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.testclient import TestClient

from image_files import write_image
from label_people import PORT, StandInSession, wait_for
from sppnet.labelling.base import list_photos, open_store
from sppnet.server.label_studio import StudioDesk, build_label_studio_app
from sppnet.server.serve_gate import Access, has_token

RECORDED = json.loads((Path(__file__).parent / "label_studio_1_23_2.json").read_text("utf-8"))
FIRST, SECOND = "test_IMG_2383.JPG", "JPEGImages/test_IMG_2384.JPG"
TOKEN = "0123456789abcdef"
CHOICES = (
    '<View><Image name="i" value="$photo"/><Choices name="c" toName="i" choice="{}">'
    '<Choice value="cat"/><Choice value="dog" alias="d"/></Choices></View>'
)


def recorded(path: str, action: str | None = None, place: int = 0) -> dict:
    """What Label Studio sent to a path."""
    found = [each["body"] for each in RECORDED
             if each["path"] == path and (each["body"] or {}).get("action") == action]  # fmt: skip
    return copy.deepcopy(found[place])


CATS = recorded("/predict")["label_config"].replace(
    "ten", "cat"
)  # the model of the tests knows them


class Studio:
    """Sends what Label Studio sends, over its connection."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def post(self, path: str, body: object) -> object:
        return self.client.post(path, json=body)

    def annotate(self, action: str = "ANNOTATION_CREATED", **changed: object) -> object:
        """Send the recorded annotation of the first photo, some of its fields changed."""
        body = recorded("/webhook", action)
        body["annotation"] |= changed
        return self.post("/webhook", body)


def write_photos(folder: Path) -> None:
    for number, name in enumerate(
        [FIRST, SECOND, *(f"JPEGImages/test_IMG_{n}.JPG" for n in (2387, 2391))]
    ):
        write_image(folder / name, 200, 300, seed=number)


def _serve(folder: Path, task: str = "detect", access: Access | None = None, **settings: object):
    store = open_store(folder, None, task)
    photos = list_photos(folder)
    session, told = StandInSession(store, photos, **settings), []
    desk = StudioDesk(folder, store, photos, task, lambda: session, tell=told.append)
    desk.work.settle = 0.01
    app = build_label_studio_app(desk, lambda: PORT, access)
    client = TestClient(app, base_url=f"http://127.0.0.1:{PORT}", raise_server_exceptions=False)
    desk.start()
    try:
        yield SimpleNamespace(desk=desk, session=session, store=store, told=told, client=client,
                              studio=Studio(client), folder=folder)  # fmt: skip
    finally:
        desk.close()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def served(photos: Path) -> Iterator[SimpleNamespace]:
    yield from _serve(photos)


@pytest.fixture
def named(photos: Path) -> Iterator[SimpleNamespace]:
    yield from _serve(photos, "classify")


def error_of(answer) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def learnt(served: SimpleNamespace, fits: int = 1) -> None:
    wait_for(lambda: len(served.session.fits) >= fits)


def test_it_is_connected_as_label_studio_does(served) -> None:
    health = served.client.get("/health").json()
    assert (health["status"], health["model_version"], health["photos"]) == ("UP", "", 4)
    assert served.studio.post("/setup", recorded("/setup")).json() == {"model_version": ""}
    assert served.client.get("/versions").json() == {"versions": []}
    for place in (0, 1):
        heard = served.studio.post("/webhook", recorded("/webhook", "TASKS_CREATED", place))
        assert heard.json() == {"status": "ignored"}


def test_annotations_are_on_the_disk_when_they_are_answered_and_then_learnt(served) -> None:
    answer = served.studio.annotate()
    assert answer.status_code == 200
    labels = served.store.labels(FIRST)
    assert [(box.corners, box.name) for box in labels.boxes] == [((30, 40, 120, 120), "ten")]
    assert (labels.state, labels.kind, labels.author) == (
        "labelled",
        "label-studio",
        "label-studio 1",
    )
    assert labels.extra["studio"]["id"] == 1
    learnt(served)
    served.studio.annotate("ANNOTATION_UPDATED")
    assert [box.name for box in served.store.labels(FIRST).boxes] == ["ten", "ace"]
    learnt(served, 2)
    served.studio.post("/webhook", recorded("/webhook", "ANNOTATIONS_DELETED"))
    assert served.store.labels(FIRST).state == "unlabelled"
    assert [each.state for each in served.store.history(FIRST)] == ["labelled"] * 2 + ["unlabelled"]
    assert served.told == []


def test_skipped_tasks_and_those_without_things(served) -> None:
    served.studio.post("/webhook", recorded("/webhook", "ANNOTATION_CREATED", 1))  # was cancelled
    assert served.store.labels(SECOND).revision == 0
    served.studio.annotate(result=[])
    assert served.store.labels(FIRST).state == "empty"
    served.studio.annotate("ANNOTATION_UPDATED", was_cancelled=True)
    assert served.store.labels(FIRST).state == "unlabelled"


def test_an_annotation_that_is_deleted_gives_way_to_the_one_before(served) -> None:
    served.studio.annotate(id=1)
    served.studio.annotate("ANNOTATION_UPDATED", id=2)
    gone = recorded("/webhook", "ANNOTATIONS_DELETED")
    served.studio.post("/webhook", gone | {"annotations": [{"id": 2}]})
    assert [box.name for box in served.store.labels(FIRST).boxes] == ["ten"]
    served.studio.annotate("ANNOTATION_UPDATED", id=3)
    served.studio.post("/webhook", gone | {"annotations": [{"id": 1}]})
    assert len(served.store.labels(FIRST).boxes) == 2  # what holds is another's
    served.studio.post("/webhook", gone | {"annotations": [{"id": 3}]})
    assert served.store.labels(FIRST).state == "unlabelled"  # the first is gone, too
    again = served.studio.post("/webhook", gone | {"annotations": [{"id": 3}, {"id": 99}]})
    assert again.status_code == 200
    assert served.store.labels(FIRST).revision == 5


def test_who_edits_in_the_page_meanwhile_is_not_overruled_by_a_deletion(served) -> None:
    served.studio.annotate()
    served.session.set_boxes(FIRST, [[1, 2, 30, 40]], ["mine"], author="Ann")
    served.studio.post("/webhook", recorded("/webhook", "ANNOTATIONS_DELETED"))
    assert [box.name for box in served.store.labels(FIRST).boxes] == ["mine"]


def test_training_is_answered_at_once(served) -> None:
    served.studio.annotate()
    learnt(served)
    served.session.fit_seconds = 5.0
    answer = served.studio.post("/webhook", recorded("/webhook", "START_TRAINING"))
    assert answer.json()["status"] == "ok"
    assert served.client.get("/health").json()["phase"] == "queued"
    assert len(served.session.fits) == 1
    served.session.blocker.set()
    learnt(served, 2)


def test_predictions_are_boxes_in_percent_with_version_and_score(served) -> None:
    ask = recorded("/predict", place=1)
    assert served.studio.post("/predict", ask).json()["results"] == [[], [], [], []]
    served.studio.annotate(result=[])
    served.session.set_boxes(SECOND, [[1, 2, 30, 40]], ["cat"])
    served.desk.work.edited(SECOND)
    learnt(served)
    found = served.studio.post("/predict", ask | {"label_config": CATS}).json()["results"]
    assert len(found) == 4
    (result,) = found[1]["result"]
    assert result["value"] == {
        "x": pytest.approx(100 / 300), "y": 1.0, "width": pytest.approx(1000 / 300), "height": 5.0,
        "rotation": 0, "rectanglelabels": ["cat"],
    }  # fmt: skip
    about = {key: result[key] for key in ("from_name", "to_name", "type", "original_width",
                                          "original_height", "score")}  # fmt: skip
    assert about == {"from_name": "label", "to_name": "image", "type": "rectanglelabels",
                     "original_width": 300, "original_height": 200, "score": 0.9}  # fmt: skip
    assert (found[1]["model_version"], found[1]["score"]) == ("warm 1", 0.9)
    assert served.studio.post("/setup", recorded("/setup")).json()["model_version"] == "warm 1"


def test_what_the_project_does_not_offer_is_not_predicted(served) -> None:
    served.studio.annotate()
    learnt(served)
    found = served.studio.post("/predict", recorded("/predict")).json()["results"]
    assert found == [[]]  # the model knows but cats; an empty prediction would be kept


def test_the_first_model_is_waited_for(photos) -> None:
    for served in _serve(photos, fit_seconds=0.5):
        served.studio.annotate()
        found = served.studio.post("/predict", recorded("/predict") | {"label_config": CATS})
        assert found.json()["results"][0]["model_version"] == "warm 1"


def test_what_was_annotated_while_nobody_listened_is_taken_in(served) -> None:
    ask = recorded("/predict")
    task, heard = ask["tasks"][0], recorded("/webhook", "ANNOTATION_UPDATED")["annotation"]
    early = heard | {"id": 7, "updated_at": "2026-11-30T01:00:00.000000Z", "result": []}
    task["annotations"] = [heard | {"id": 8, "was_cancelled": True}, heard, early]
    photo = "JPEGImages/test_IMG_2387.JPG"
    served.studio.post("/predict", ask)
    assert [box.name for box in served.store.labels(photo).boxes] == ["ten", "ace"]
    served.studio.post("/predict", ask)
    assert served.store.labels(photo).revision == 1  # known
    heard |= {"updated_at": "2026-11-30T23:00:00.000000Z", "result": heard["result"][:1]}
    task["annotations"] = [heard]
    served.studio.post("/predict", ask)
    assert [box.name for box in served.store.labels(photo).boxes] == ["ten"]
    served.studio.post("/webhook", recorded("/webhook", "ANNOTATIONS_DELETED"))
    served.studio.post("/predict", ask)  # asked before it was deleted: it does not come back
    assert served.store.labels(photo).state == "unlabelled"


@pytest.mark.parametrize(
    ("place", "photo"),
    [
        ("/data/local-files/?d=JPEGImages/test_IMG_2384.JPG", SECOND),
        ("http://other.example/a%20b/JPEGImages/test_IMG_2384.JPG?sig=1", SECOND),
        ("s3://bucket/JPEGImages/test_IMG_2384.JPG", SECOND),
        ("/data/upload/1/5594e7e3-test_IMG_2383.JPG", FIRST),
        ("C:\\cards\\test_IMG_2383.JPG", FIRST),
        ("/data/local-files/?d=../../etc/passwd", None),
        ("/etc/passwd", None),
        ("file:///etc/passwd", None),
        ("http://169.254.169.254/latest/meta-data", None),
        ("/data/upload/1/5594e7e3-", None),
        (".sppnet/labels.sqlite", None),
        ("\x00", None),
    ],
)
def test_photos_are_found_by_name_alone(served, place: str, photo: str | None) -> None:
    body = recorded("/webhook", "ANNOTATION_CREATED")
    body["task"]["data"]["image"] = place
    answer = served.studio.post("/webhook", body)
    if photo is None:
        assert error_of(answer) == (404, "E_NOT_FOUND")
        assert served.store.every() == []
        assert len(served.told) == 1
    else:
        assert served.store.labels(photo).state == "labelled"


def test_a_name_that_two_photos_have_is_refused_with_both(photos) -> None:
    (photos / "a" / "JPEGImages").mkdir(parents=True)
    shutil.copyfile(photos / SECOND, photos / "a" / SECOND)
    shutil.copyfile(photos / SECOND, photos / "a" / "test_IMG_2383.JPG")
    for served in _serve(photos):
        body = recorded("/webhook", "ANNOTATION_CREATED")
        answer = served.studio.post("/webhook", body)
        assert error_of(answer) == (400, "E_VALUE")
        assert "fits several photos" in answer.json()["error"]["message"]
        served.studio.post("/webhook", body)
        assert len(served.told) == 1  # not again and again
        for place, photo in (("x/a/test_IMG_2383.JPG", "a/test_IMG_2383.JPG"),
                             ("x/a/" + SECOND, "a/" + SECOND)):  # fmt: skip
            body["task"]["data"]["image"] = place
            assert served.studio.post("/webhook", body).status_code == 200
            assert served.store.labels(photo).state == "labelled"


def test_another_photo_of_the_same_name_is_refused(served) -> None:
    body = recorded("/webhook", "ANNOTATION_CREATED")
    body["annotation"]["result"][0]["original_width"] = 400
    answer = served.studio.post("/webhook", body)
    assert error_of(answer) == (400, "E_VALUE")
    assert "300 x 200" in answer.json()["error"]["message"]
    assert served.store.every() == []


def test_a_task_that_cannot_be_used_does_not_spoil_the_others(served) -> None:
    served.studio.annotate()
    learnt(served)
    ask = recorded("/predict", place=1) | {"label_config": CATS}
    ask["tasks"][0]["data"] = {"image": "gone.jpg"}
    ask["tasks"][2] = {"data": {}}
    found = served.studio.post("/predict", ask).json()["results"]
    assert [bool(each) for each in found] == [False, True, False, True]
    assert len(served.told) == 2
    ask["tasks"] = ask["tasks"][:1]
    assert error_of(served.studio.post("/predict", ask)) == (404, "E_NOT_FOUND")


def test_names_of_whole_photos(named) -> None:
    body = recorded("/webhook", "ANNOTATION_CREATED")
    body["project"]["label_config"] = CHOICES.format("multiple")
    body["task"]["data"] = {"photo": SECOND}
    chosen = {"choices": ["cat", "d", "cat"]}
    body["annotation"]["result"] = [{"type": "choices", "from_name": "c", "value": chosen}]
    assert named.studio.post("/webhook", body).status_code == 200
    assert named.store.labels(SECOND).names == ("cat", "d")
    ask = {
        "tasks": [{"id": 1, "data": {"photo": SECOND}}],
        "label_config": CHOICES.format("single"),
    }
    named.session.fits.append(False)
    (found,) = named.studio.post("/predict", ask).json()["results"]
    assert found["result"][0]["value"] == {"choices": ["cat"]}
    assert (found["result"][0]["type"], found["score"]) == ("choices", 0.9)
    wrong = named.studio.post("/setup", recorded("/setup"))
    assert error_of(wrong) == (400, "E_USAGE")
    assert "Choices" in wrong.json()["error"]["message"]


BAD_CONFIGS = [
    None, 7, "", "no xml", "<View/>", '<View><RectangleLabels name="a" toName="b"/></View>',
    '<!DOCTYPE x [<!ENTITY a "b">]><View>&a;</View>', "<View>" * 40 + "</View>" * 40,
    f"<View>{'x' * 1_000_000}</View>",
]  # fmt: skip


@pytest.mark.parametrize("config", BAD_CONFIGS)
def test_configurations_that_have_nothing_for_boxes(served, config) -> None:
    answer = served.studio.post("/setup", recorded("/setup") | {"schema": config})
    assert answer.status_code in (400, 422)
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/setup", []),
        ("/predict", {}),
        ("/predict", {"tasks": []}),
        ("/predict", {"tasks": "all"}),
        ("/predict", {"tasks": [7] * 3}),
        ("/predict", {"tasks": [{}] * 100_001}),
        ("/webhook", 7),
        ("/webhook", {"action": "ANNOTATION_CREATED"}),
        ("/webhook", {"action": "ANNOTATION_CREATED", "annotation": [], "task": 7}),
        ("/webhook", {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": "1"}]}),
        ("/webhook", {"action": "ANNOTATIONS_DELETED", "project": {"id": 1}, "annotations": [9]}),
    ],
)
def test_bodies_that_label_studio_does_not_send(served, path: str, body) -> None:
    if path == "/predict" and body:
        body = recorded("/predict") | body
    assert served.studio.post(path, body).status_code in (400, 422)
    assert served.store.every() == []


@pytest.mark.parametrize(
    "result",
    [
        None,
        {"type": "rectanglelabels"},
        [7],
        [{"type": "rectanglelabels", "value": {"rectanglelabels": ["ten"]}}],
        [{"type": "rectanglelabels", "value": {"rectanglelabels": ["ten"], "x": "1", "y": 1,
                                               "width": 1, "height": 1}}],
        [{"type": "rectanglelabels", "value": {"rectanglelabels": ["a\nb"], "x": 1, "y": 1,
                                               "width": 9, "height": 9}}],
        [{"type": "rectanglelabels", "value": {"rectanglelabels": [7], "x": 1, "y": 1,
                                               "width": 9, "height": 9}}],
        [{"type": "rectanglelabels", "value": {"rectanglelabels": ["ten"], "x": 1e300, "y": 1,
                                               "width": 9, "height": 9}}],
    ],
)  # fmt: skip
def test_annotations_that_say_nothing_sensible_write_nothing(served, result) -> None:
    answer = served.studio.annotate(result=result)
    assert error_of(answer) == (400, "E_VALUE")
    assert served.store.every() == []


def test_boxes_that_are_turned_or_reach_out_and_other_shapes(served) -> None:
    box = recorded("/webhook", "ANNOTATION_CREATED")["annotation"]["result"][0]
    turned = box | {"value": box["value"] | {"x": 50, "y": 20, "width": 10, "height": 10,
                                             "rotation": 90}}  # fmt: skip
    outside = box | {"value": box["value"] | {"x": 95, "width": 30}}
    nothing = box | {"value": box["value"] | {"width": 0.1}}
    polygon = {"type": "polygonlabels", "value": {"points": [[1, 2]]}}
    served.studio.annotate(result=[turned, outside, nothing, polygon])
    labels = served.store.labels(FIRST)
    corners = [tuple(round(x, 6) for x in each.corners) for each in labels.boxes]
    assert corners == [(130, 40, 150, 70), (285, 40, 300, 120)]
    assert labels.extra["studio_results"] == [nothing, polygon]


def test_a_token_that_is_no_ascii_is_wrong_and_no_fault() -> None:
    assert not has_token("Basic \xe9\xe9", TOKEN, ("basic",))
    assert not has_token("Bearer \xe9", TOKEN)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "E_TOKEN"),
        ({"Authorization": "Bearer wrong"}, "E_TOKEN"),
        ({"Authorization": "Basic !!!"}, "E_TOKEN"),
        ({"Authorization": "Digest " + TOKEN}, "E_TOKEN"),
        ({"Authorization": "Bearer " + TOKEN, "Host": "evil.example"}, "E_HOST"),
        ({"Authorization": "Bearer " + TOKEN, "Origin": "http://evil.example"}, "E_ORIGIN"),
        ({"Authorization": "Bearer " + TOKEN, "Sec-Fetch-Site": "cross-site"}, "E_ORIGIN"),
        ({"Authorization": "Bearer " + TOKEN, "Content-Type": "text/plain"}, "E_MEDIA"),
    ],
)
def test_who_is_not_let_in(photos, headers: dict, code: str) -> None:
    for served in _serve(photos, access=Access(TOKEN)):
        answer = served.client.post("/webhook", content=b"{}", headers=headers)
        assert error_of(answer)[1] == code
        basic = base64.b64encode(f"studio:{TOKEN}".encode()).decode()
        for given in (f"Basic {basic}", f"Bearer {TOKEN}", f"Token {TOKEN}"):
            inside = served.client.get("/health", headers={"Authorization": given})
            assert inside.status_code == 200


def test_errors_name_no_folder_and_unknown_pages_are_json(served) -> None:
    (served.folder / FIRST).write_bytes(b"no photo")
    answer = served.studio.annotate()
    assert answer.status_code == 422
    assert str(served.folder) not in answer.text + "".join(served.told)
    assert error_of(served.client.post("/train", json={})) == (404, "E_NOT_FOUND")
    assert error_of(served.client.get("/predict")) == (405, "E_METHOD")
    assert error_of(served.studio.post("/predict", float("1"))) == (400, "E_VALUE")
    broken = served.client.post(
        "/setup", content=b"{", headers={"Content-Type": "application/json"}
    )
    assert error_of(broken) == (400, "E_JSON")


def test_a_photo_that_cannot_be_read_gets_no_prediction(served) -> None:
    served.studio.annotate()
    learnt(served)
    (served.folder / SECOND).write_bytes(b"no photo")
    ask = recorded("/predict", place=1) | {"label_config": CATS}
    found = served.studio.post("/predict", ask).json()["results"]
    assert [bool(each) for each in found] == [True, False, True, True]


def test_a_session_that_cannot_be_opened(photos) -> None:
    from sppnet.errors import OutputError

    store = open_store(photos, None, "detect")

    def fail() -> None:
        raise OutputError("no room")

    desk = StudioDesk(photos, store, list_photos(photos), "detect", fail)
    app = build_label_studio_app(desk, lambda: PORT)
    client = TestClient(app, base_url=f"http://127.0.0.1:{PORT}", raise_server_exceptions=False)
    desk.start()
    wait_for(lambda: desk.work.failure)
    assert error_of(client.get("/health"))[0] == 500
    desk.close()

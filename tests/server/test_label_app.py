"""Every request of the label page, over HTTP, with a session that learns nothing."""

import asyncio
import io
import json
import zipfile
from urllib.parse import quote

import pytest
from PIL import Image

from label_people import Person, wait_for
from sppnet.errors import OutputError
from sppnet.server.board import is_withheld

BOX = [1, 2, 11, 12]


def error_of(answer) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_the_first_look(served) -> None:
    about = served.ann.get("/api/session").json()
    assert (about["folder"], about["task"], about["photos"]) == ("photos", "detect", 4)
    assert (about["classes"], about["expected"], about["curve"]) == ([], None, [])
    listed = served.ann.get("/api/photos?offset=1&limit=2").json()
    assert listed["total"] == 4
    assert [item["photo"] for item in listed["items"]] == ["b.png", "broken.jpg"]


def test_a_photo_is_drawn_on_and_comes_back(served) -> None:
    before = served.ann.get("/api/photo/a.jpg").json()
    assert (before["revision"], before["state"], before["boxes"]) == (0, "unlabelled", [])
    with Image.open(served.desk.folder / "a.jpg") as image:
        assert (before["width"], before["height"]) == image.size
    made = served.ann.draw("a.jpg", 0, BOX)
    assert made.status_code == 200
    assert made.headers["etag"] == '"1"'
    after = served.bob.get("/api/photo/a.jpg").json()
    assert after["boxes"] == [{"box": [1.0, 2.0, 11.0, 12.0], "name": "cat"}]
    assert (after["can_undo"], after["can_redo"]) == (True, False)
    assert served.store.labels("a.jpg").author == "Ann"
    assert served.ann.get("/api/session").json()["classes"] == [{"name": "cat", "count": 1}]
    assert served.ann.get("/api/session").json()["last_photo"] == "a.jpg"


def test_names_with_spaces_and_folders(served) -> None:
    path = quote("sub/c d.jpg")
    assert served.ann.draw(path, 0, BOX).json()["photo"] == "sub/c d.jpg"
    assert served.ann.get(f"/api/photo/{path}/suggestions").status_code == 200
    assert served.ann.write("POST", f"/api/photo/{path}/undo", revision=1).json()["revision"] == 2


def test_two_people_on_one_photo_lose_nothing(served) -> None:
    assert served.ann.draw("a.jpg", 0, BOX).status_code == 200
    late = served.bob.draw("a.jpg", 0, [5, 5, 20, 20], name="dog")
    assert error_of(late) == (409, "E_CONFLICT")
    assert late.json()["current"]["boxes"][0]["name"] == "cat"
    assert late.json()["current"]["revision"] == 1
    offered = late.json()["offered"]
    assert offered["boxes"] == [{"box": [5.0, 5.0, 20.0, 20.0], "name": "dog"}]
    assert served.store.labels("a.jpg").revision == 1
    assert served.bob.draw("a.jpg", 1, BOX, [5, 5, 20, 20]).json()["revision"] == 2


def test_undo_and_redo(served) -> None:
    served.ann.draw("a.jpg", 0, BOX)
    undone = served.ann.write("POST", "/api/photo/a.jpg/undo", revision=1).json()
    assert (undone["revision"], undone["boxes"], undone["can_redo"]) == (2, [], True)
    late = served.bob.write("POST", "/api/photo/a.jpg/redo", revision=1)
    assert error_of(late) == (409, "E_CONFLICT")
    redone = served.bob.write("POST", "/api/photo/a.jpg/redo", revision=2).json()
    assert (redone["revision"], len(redone["boxes"])) == (3, 1)
    nothing = served.ann.write("POST", "/api/photo/a.jpg/redo", revision=3)
    assert error_of(nothing) == (409, "E_USAGE")
    assert nothing.json()["current"]["revision"] == 3


@pytest.mark.parametrize("tag", ["", "abc", '"-1"', '"1e3"', '"' + "9" * 40 + '"', "*", '"¹"'])
def test_an_edit_says_what_it_was_made_on(served, tag: str) -> None:
    headers = {"X-Sppnet": "1", **({"If-Match": tag.encode()} if tag else {})}
    answer = served.client.put("/api/photo/a.jpg", json={"boxes": []}, headers=headers)
    assert error_of(answer) == ((400, "E_USAGE") if tag else (428, "E_PRECONDITION"))


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"empty": False},  # no boxes is not the same as an empty list of them
        {"boxes": {}},
        {"boxes": [{}]},
        {"boxes": [{"box": BOX}]},
        {"boxes": [{"box": [1, 2, 3], "name": "cat"}]},
        {"boxes": [{"box": ["1", 2, 3, 4], "name": "cat"}]},
        {"boxes": [{"box": [True, 2, 3, 4], "name": "cat"}]},
        {"boxes": [{"box": [1e300, 2, 3, 4], "name": "cat"}]},
        {"boxes": [{"box": BOX, "name": ""}]},
        {"boxes": [{"box": BOX, "name": "x" * 201}]},
        {"boxes": [{"box": BOX, "name": "a\x00b"}]},
        {"boxes": [{"box": BOX, "name": 7}]},
        {"boxes": [{"box": BOX, "name": "cat"}], "empty": True},
        {"boxes": [], "empty": 1},
        {"boxes": [{"box": BOX, "name": "cat"}] * 5001},
        {"boxes": [{"box": [12, 2, 11, 12], "name": "cat"}]},  # reversed
    ],
)
def test_bodies_that_say_nothing_sensible_write_nothing(served, body) -> None:
    answer = served.ann.write("PUT", "/api/photo/a.jpg", body or [0], revision=0)
    assert error_of(answer) == (400, "E_VALUE")
    assert served.store.labels("a.jpg").revision == 0


@pytest.mark.parametrize(
    "text", [b"{", b"NaN", b'{"boxes": [{"box": [NaN,1,2,3]}]}', b"\xff", b"[" * 10_000]
)
def test_bodies_that_are_no_json(served, text: bytes) -> None:
    headers = {"X-Sppnet": "1", "If-Match": '"0"', "Content-Type": "application/json"}
    answer = served.client.put("/api/photo/a.jpg", content=text, headers=headers)
    assert error_of(answer) == (400, "E_JSON")


def test_what_is_not_there(served) -> None:
    for path in (
        "../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "gone.jpg",
        "sub",
        "a.jpg%00",
        ".sppnet/labels.sqlite",
    ):
        for place in ("/api/photo/", "/image/", "/thumb/"):
            answer = served.ann.get(place + path)
            assert error_of(answer) == (404, "E_NOT_FOUND"), place + path
    assert error_of(served.ann.write("POST", "/api/photo/a.jpg/explode", revision=0))[0] == 404
    assert error_of(served.ann.get("/api/nothing"))[0] == 404
    assert error_of(served.ann.write("DELETE", "/api/photo/a.jpg"))[0] == 405
    assert served.ann.get("/openapi.json").status_code == 404
    assert served.ann.get("/docs").status_code == 404


def test_a_broken_photo_is_one_error_without_paths(served) -> None:
    for path in ("/api/photo/broken.jpg", "/image/broken.jpg", "/thumb/broken.jpg"):
        answer = served.ann.get(path)
        assert answer.status_code == 422
        assert str(served.desk.folder) not in answer.text
        assert "Traceback" not in answer.text


def test_a_bug_is_one_line_without_details_and_leads_to_the_log(
    served, monkeypatch, capsys
) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("secret /root/place")

    monkeypatch.setattr(served.desk.board, "items", explode)
    answer = served.ann.get("/api/photos")
    assert error_of(answer) == (500, "E_BUG")
    assert "secret" not in answer.text
    number = answer.json()["error"]["id"]
    assert f"[{number}] a request met a bug: RuntimeError" in capsys.readouterr().err


def test_pictures_are_asked_for_once(served) -> None:
    first = served.ann.get("/image/a.jpg?side=20")
    assert first.headers["content-type"] == "image/jpeg"
    assert max(Image.open(io.BytesIO(first.content)).size) == 20
    again = served.ann.get("/image/a.jpg?side=20", **{"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    thumb = served.ann.get("/thumb/a.jpg")
    assert (
        served.ann.get("/thumb/a.jpg", **{"If-None-Match": thumb.headers["etag"]}).status_code
        == 304
    )
    assert error_of(served.ann.get("/image/a.jpg?side=-1")) == (400, "E_VALUE")
    assert error_of(served.ann.get("/image/a.jpg?side=x")) == (400, "E_VALUE")


def test_suggestions_come_after_an_edit_and_are_kept_new(served) -> None:
    photo = next(name for name in ("a.jpg", "b.png") if not is_withheld(name))
    served.ann.get(f"/api/photo/{photo}")
    served.ann.draw("a.jpg", 0, BOX)
    wait_for(lambda: photo in served.session.looked_at)
    wait_for(lambda: served.ann.get(f"/api/photo/{photo}").json()["suggestions"]["items"])
    found = served.ann.get(f"/api/photo/{photo}/suggestions").json()
    assert found["model"].startswith("warm")
    assert found["items"] == [
        {
            "box": [1.0, 2.0, 11.0, 12.0],
            "name": "cat",
            "score": 0.9,
            "confidence": 0.9,
            "there": 0.9,
        }
    ]


def test_classes_are_renamed_and_merged_for_all(served) -> None:
    served.ann.draw("a.jpg", 0, BOX)
    served.ann.draw("b.png", 0, BOX, name="dog")
    change = served.ann.write("POST", "/api/classes/rename", {"name": "cat", "new": "lynx"})
    assert {each["name"] for each in change.json()["classes"]} == {"lynx", "dog"}
    taken = served.ann.write("POST", "/api/classes/rename", {"name": "dog", "new": "lynx"})
    assert error_of(taken) == (400, "E_USAGE")
    merged = served.ann.write("POST", "/api/classes/merge", {"name": "dog", "into": "lynx"})
    assert merged.json()["classes"] == [{"name": "lynx", "count": 2}]
    assert error_of(served.ann.write("POST", "/api/classes/eat", {}))[0] == 404


def test_pages_hear_of_a_new_name_before_the_list_of_classes(served, monkeypatch) -> None:
    served.ann.draw("a.jpg", 0, BOX)
    heard = []
    monkeypatch.setattr(served.desk.hub, "publish", lambda *event: heard.append(event))
    served.ann.write("POST", "/api/classes/rename", {"name": "cat", "new": "lynx"})
    told = [event for event in heard if event[0] in ("renamed", "classes")]
    renamed = ("renamed", {"name": "cat", "new": "lynx"})
    assert told == [renamed, ("classes", [{"name": "lynx", "count": 1}])]


def test_suggestions_of_few_photos_are_in_memory(served, monkeypatch) -> None:
    monkeypatch.setattr("sppnet.server.desk.MOST_KEPT", 2)
    for photo in ("a.jpg", "b.png", "a.jpg", "sub/c d.jpg"):
        served.desk.suggest(photo)
    assert list(served.desk._suggested) == ["a.jpg", "sub/c d.jpg"]


def test_what_the_learner_is_asked(served) -> None:
    assert served.ann.get("/api/next?count=2").json() == {"photos": ["sub/c d.jpg", "broken.jpg"]}
    assert served.ann.get("/api/doubtful").json() == {"doubts": []}
    for path in ("/api/next?count=-1", "/api/next?count=nan", "/api/doubtful?count=100000"):
        assert error_of(served.ann.get(path)) == (400, "E_VALUE")
    assert served.ann.write("POST", "/api/refit", {"full": True}).status_code == 202
    assert error_of(served.ann.write("POST", "/api/refit", {"full": 1})) == (400, "E_VALUE")


def test_many_photos_are_looked_through_at_once(served, monkeypatch) -> None:
    assert served.ann.get("/api/surest").json() == {"photos": []}  # no model yet
    served.ann.draw("b.png", 0, BOX)
    wait_for(lambda: served.session.fits)
    found = served.ann.get("/api/surest").json()["photos"]
    # neither what is labelled, nor what cannot be read, nor what comes without suggestions
    monkeypatch.setattr("sppnet.server.desk.is_withheld", lambda photo: photo == "a.jpg")
    without = served.ann.get("/api/surest?count=2").json()["photos"]
    assert [photo["photo"] for photo in found] == ["a.jpg", "sub/c d.jpg"]
    assert found[0]["suggestions"]["items"][0]["name"] == "cat"
    assert (found[0]["revision"], found[0]["state"]) == (0, "unlabelled")
    assert [photo["photo"] for photo in without] == ["sub/c d.jpg"]
    assert error_of(served.ann.get("/api/surest?count=101")) == (400, "E_VALUE")


def test_who_is_where(served, monkeypatch) -> None:
    heard = []
    monkeypatch.setattr(served.desk.hub, "publish", lambda *event: heard.append(event))
    body = {"photo": "a.jpg", "who": "w1"}
    assert served.ann.write("POST", "/api/presence", body).status_code == 204
    served.ann.write("POST", "/api/presence", body)
    served.bob.write("POST", "/api/presence", {"photo": "b.png", "who": "w2"})
    present = [data for event, data in heard if event == "presence"]
    assert [len(each) for each in present] == [1, 2]  # nothing is said twice
    assert present[-1][1] == {"who": "w2", "author": "Bob", "photo": "b.png"}
    monkeypatch.setattr("sppnet.server.desk.PRESENCE_SECONDS", -1.0)
    assert served.desk.first_events()[1] == ("presence", [])


def test_pages_hear_who_left(served, monkeypatch) -> None:
    served.bob.write("POST", "/api/presence", {"photo": "b.png", "who": "w2"})
    served.ann.write("POST", "/api/presence", {"photo": "a.jpg", "who": "w1"})
    heard = []
    monkeypatch.setattr(served.desk.hub, "publish", lambda *event: heard.append(event))
    seen, *about = served.desk._people["w2"]
    served.desk._people["w2"] = (seen - 60.0, *about)
    served.ann.write("POST", "/api/presence", {"photo": "a.jpg", "who": "w1"})
    present = [data for event, data in heard if event == "presence"]
    assert present == [[{"who": "w1", "author": "Ann", "photo": "a.jpg"}]]


def test_a_page_that_comes_later_hears_of_the_last_run(served) -> None:
    assert "job" not in dict(served.desk.first_events())
    served.ann.draw("a.jpg", 0, BOX)
    wait_for(lambda: served.session.fits)
    served.ann.write("POST", "/api/run")
    served.jobs.join()
    assert dict(served.desk.first_events())["job"]["url"] == "/report/1/index.html"


def test_a_page_that_comes_does_not_hold_up_the_others(served, monkeypatch) -> None:
    threads = []

    def note() -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        threads.append(1)
        raise OutputError("no events today")

    monkeypatch.setattr(served.desk, "first_events", note)
    assert error_of(served.ann.get("/api/events")) == (500, "E_OUTPUT")
    assert threads == [1]


def test_the_page_can_tell_stores_apart(served) -> None:
    assert served.ann.get("/api/session").json()["store"] == served.store.fact("id") != ""


def test_edits_have_a_most_of_boxes_and_letters(served) -> None:
    assert error_of(served.ann.draw("a.jpg", 0, *[BOX] * 5001)) == (400, "E_VALUE")
    assert error_of(served.ann.draw("a.jpg", 0, BOX, name="x" * 201)) == (400, "E_VALUE")
    assert served.ann.draw("a.jpg", 0, *[BOX] * 5000, name="x" * 200).status_code == 200


def test_an_author_is_any_short_name(served) -> None:
    body = {"boxes": [{"box": BOX, "name": "cat"}]}
    for name, status in (("J%C3%B6rg", 200), ("x" * 81, 400), ("a%0Ab", 400)):
        headers = {"X-Sppnet": "1", "If-Match": '"0"', "X-Author": name}
        assert (
            served.client.put("/api/photo/a.jpg", json=body, headers=headers).status_code == status
        )
    assert served.store.labels("a.jpg").author == "Jörg"


@pytest.mark.parametrize(
    ("name", "status"),
    [("chat\u00a0noir", 200), ("\u732b\u3000\u9ed2", 200), ("\U0001f468\u200d\U0001f33e", 200),
     ("cat\x07", 400), ("cat\n", 400), ("cat\x85", 400)],
)  # fmt: skip
def test_names_and_authors_of_all_languages(served, name: str, status: int) -> None:
    person = Person(served.client, quote(name))
    assert person.draw("a.jpg", 0, BOX).status_code == status
    assert served.ann.draw("b.png", 0, BOX, name=name).status_code == status
    if status == 200:
        assert served.store.labels("a.jpg").author == name
        assert served.ann.get("/api/session").json()["classes"][-1]["name"] == name


def test_exports_are_downloads(served) -> None:
    served.ann.draw("a.jpg", 0, BOX)
    for layout in ("coco", "label-studio", "csv"):
        answer = served.ann.get(f"/api/export?layout={layout}")
        assert answer.text == layout
        assert f"photos-{layout}" in answer.headers["content-disposition"]
    assert error_of(served.ann.get("/api/export?layout=../x")) == (400, "E_USAGE")
    assert error_of(served.ann.get("/api/export")) == (400, "E_VALUE")


def test_the_model_is_a_zip_and_no_file_stays(served, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    assert error_of(served.ann.get("/api/model")) == (422, "E_NOTHING")
    served.ann.draw("a.jpg", 0, BOX)
    wait_for(lambda: served.session.fits)
    content = served.ann.get("/api/model").content
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert names == ["photos-model/manifest.json"]
    assert error_of(served.ann.get("/api/model?format=pickle")) == (400, "E_USAGE")
    assert list((tmp_path / "temp").iterdir()) == []


def test_a_run_over_the_other_photos(served, monkeypatch) -> None:
    served.ann.draw("a.jpg", 0, BOX)
    wait_for(lambda: served.session.fits)
    heard = []
    monkeypatch.setattr(served.desk.hub, "publish", lambda *event: heard.append(event))
    job = served.ann.write("POST", "/api/run").json()["job"]
    served.jobs.join()
    last = [data for event, data in heard if event == "job"][-1]
    assert (last["done"], last["total"], last["error"]) == (3, 3, None)
    assert served.ann.get(last["url"]).text == "<p>found</p>"
    assert served.ann.get(f"/report/{job}/b.png").status_code == 200
    assert not (served.jobs.folder / job / "a.jpg").exists()  # it is labelled


@pytest.mark.parametrize(
    "path",
    ["1/..%2f..%2flabels.sqlite", "1/model/manifest.json", "..%2f/labels.sqlite", "1/nothing",
     "2/index.html", "1/%2e%2e/%2e%2e/labels.sqlite", "1//etc/passwd", "1/a%00"],
)  # fmt: skip
def test_nothing_outside_a_report_is_in_reach(served, path: str) -> None:
    served.ann.draw("a.jpg", 0, BOX)
    wait_for(lambda: served.session.fits)
    served.ann.write("POST", "/api/run")
    served.jobs.join()
    assert error_of(served.ann.get(f"/report/{path}")) == (404, "E_NOT_FOUND")


def test_a_run_that_fails_says_why(served, monkeypatch) -> None:
    served.ann.draw("a.jpg", 0, BOX)
    wait_for(lambda: served.session.fits)
    heard = []
    monkeypatch.setattr(served.desk.hub, "publish", lambda *event: heard.append(event))

    def fail(*_: object) -> None:
        raise ValueError("inner matters")

    monkeypatch.setattr(served.jobs, "_predict", fail)
    served.ann.write("POST", "/api/run")
    served.jobs.join()
    assert [data["error"] for event, data in heard if event == "job"][-1] == "a bug: ValueError"


def test_a_run_that_fails_names_no_folder_of_this_machine(served, monkeypatch) -> None:
    served.ann.draw("a.jpg", 0, BOX)
    wait_for(lambda: served.session.fits)

    def fail(*_: object) -> None:
        raise OutputError(f"no room in {served.store.folder}")

    monkeypatch.setattr(served.jobs, "_predict", fail)
    heard = []
    monkeypatch.setattr(served.desk.hub, "publish", lambda *event: heard.append(event))
    served.ann.write("POST", "/api/run")
    served.jobs.join()
    errors = [data["error"] for event, data in heard if event == "job"]
    assert errors[-1] == "no room in photos/.sppnet"


def test_without_the_built_page_a_sentence_says_so(served) -> None:
    assert "npm" in served.ann.get("/").text


def test_the_built_page_and_nothing_beside_it(folder, serve) -> None:
    page = folder.parent / "page"
    (page / "assets").mkdir(parents=True)
    (page / "index.html").write_text("<title>page</title>")
    (page / "assets" / "a.js").write_text("1")
    (folder.parent / "secret").write_text("secret")
    for served in serve(folder):
        assert served.ann.get("/").text == "<title>page</title>"
        assert served.ann.get("/assets/a.js").text == "1"
        for path in ("/..%2fsecret", "/assets/..%2f..%2fsecret", "/%2e%2e/secret", "/assets"):
            assert served.ann.get(path).status_code == 404


def test_whole_photos_are_named(named) -> None:
    made = named.ann.write("PUT", "/api/photo/a.jpg", {"names": ["cat"], "empty": False}, 0)
    assert (made.json()["names"], made.json()["state"]) == (["cat"], "labelled")
    assert "boxes" not in made.json()
    assert named.ann.get("/api/session").json()["classes"] == [{"name": "cat", "count": 1}]
    late = named.bob.write("PUT", "/api/photo/a.jpg", {"names": ["dog"]}, 0)
    assert late.json()["offered"]["names"] == ["dog"]
    none = named.ann.write("PUT", "/api/photo/a.jpg", {"names": [], "empty": True}, 1)
    assert none.json()["state"] == "empty"
    undone = named.ann.write("POST", "/api/photo/a.jpg/undo", revision=2).json()
    assert undone["names"] == ["cat"]
    assert error_of(named.ann.write("PUT", "/api/photo/a.jpg", {"names": [3]}, 3))[0] == 400
    assert error_of(named.ann.get("/api/export?layout=voc"))[0] == 400
    assert error_of(named.ann.get("/api/surest"))[0] == 404


def test_events_of_an_edit(served, monkeypatch) -> None:
    heard = []
    monkeypatch.setattr(served.desk.hub, "publish", lambda *event: heard.append(event))
    served.ann.draw("a.jpg", 0, BOX)
    photo = next(data for event, data in heard if event == "photo")
    assert photo == {
        "photo": "a.jpg",
        "state": "labelled",
        "boxes": 1,
        "revision": 1,
        "author": "Ann",
    }
    assert ("classes", [{"name": "cat", "count": 1}]) in heard
    model = wait_for(lambda: [data for event, data in heard if event == "model"])[0]
    assert (model["key"], model["labelled"]) == ("learnt", 1)
    assert json.dumps(heard)

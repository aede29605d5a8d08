"""From sources to files: order, links, hidden files, odd names, patterns, and what is missing."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_files import tree_hash
from sppnet.images import list_images, listing


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def names_in(root, *sources):
    listing = list_images(sources or [root])
    return [os.path.relpath(path, root) for path in listing.paths], listing.problems


def test_nothing_is_nothing():
    assert list_images([]).paths == ()
    assert list_images([]).problems == ()


def test_folders_are_searched_without_hidden_and_other_files(tmp_path):
    touch(tmp_path, "b.jpg", "a.PNG", "sub/deep/c.webp", "notes.txt", ".hidden.jpg", ".git/d.jpg")
    found, problems = names_in(tmp_path)
    assert found == ["a.PNG", "b.jpg", "sub/deep/c.webp"]
    assert problems == ()


def test_files_of_other_kinds_are_counted_by_ending(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "_has_heif", lambda: False)
    names = [f"{n}.HEIC" for n in range(3)] + ["sub/a.mp4", "b.avif", "c.dat", "IMG_7", "notes.txt"]
    touch(tmp_path, "a.jpg", *names)
    found = list_images([tmp_path])
    assert [path.name for path in found.paths] == ["a.jpg"]
    (problem,), (note,) = found.problems, found.notes
    assert (
        "not read: 3 .heic, 1 .avif, 1 .mp4; HEIC needs an extra: pip install 'sppnet[heif]'"
        in (problem.rule)
    )
    assert (problem.path, problem.code) == (str(tmp_path), "E_FORMAT")
    assert note.rule.endswith("no images by their names: 1 without ending, 1 .dat")
    (problem,) = list_images([str(tmp_path / "*.*")]).problems
    assert "3 .heic, 1 .avif" in problem.rule


def test_heic_is_an_image_where_its_extra_is_installed(tmp_path, monkeypatch):
    touch(tmp_path, "a.HEIC", "b.heif", "c.ppm", "d.PGM")
    monkeypatch.setattr(listing, "_has_heif", lambda: True)
    assert len(list_images([tmp_path]).paths) == 4


def test_named_files_are_taken_whatever_their_ending(tmp_path):
    touch(tmp_path, "a.dat", ".hidden.jpg")
    found, problems = names_in(tmp_path, tmp_path / "a.dat", str(tmp_path / ".hidden.jpg"))
    assert found == [".hidden.jpg", "a.dat"]
    assert problems == ()


@pytest.mark.parametrize(
    ("source", "rule", "code"),
    [
        ("gone.jpg", "does not exist", "E_UNREADABLE"),
        ("", "does not exist", "E_UNREADABLE"),
        ("a\0b", "cannot be read", "E_UNREADABLE"),
        ("a" * 300, "cannot be read", "E_UNREADABLE"),
        ("*.nothing", "matches no file", "E_NOTHING"),
        ("empty", "holds no image", "E_NOTHING"),
        ("text", "holds no image", "E_NOTHING"),
        ("pipe.jpg", "must be a regular file", "E_UNREADABLE"),
        ("broken.jpg", "does not exist", "E_UNREADABLE"),
    ],
)
def test_a_source_that_gives_nothing_is_one_problem(tmp_path, monkeypatch, source, rule, code):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "text/readme.txt", "good.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    listing = list_images([source, "good.jpg"])
    assert listing.paths == (Path("good.jpg"),)
    assert len(listing.problems) == 1
    assert rule in listing.problems[0].rule
    assert listing.problems[0].code == code
    assert str(listing.problems[0]).isprintable()


def test_links_that_loop_end_and_every_file_comes_once(tmp_path):
    touch(tmp_path, "set/a.jpg", "set/sub/b.jpg", "outside/c.jpg")
    (tmp_path / "set/sub/up").symlink_to(tmp_path / "set")
    (tmp_path / "set/self").symlink_to("self")
    (tmp_path / "set/out").symlink_to(tmp_path / "outside")
    (tmp_path / "set/zz.jpg").symlink_to("a.jpg")
    os.link(tmp_path / "set/a.jpg", tmp_path / "set/hard.jpg")
    found, problems = names_in(tmp_path, tmp_path / "set", tmp_path / "set", tmp_path / "outside")
    assert found == ["set/a.jpg", "set/out/c.jpg", "set/sub/b.jpg"]
    assert problems == ()


def test_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a1.jpg", "a2.jpg", "b.png", "sub/c.jpg", "[odd].jpg", "note.txt")
    assert [str(p) for p in list_images(["a?.jpg"]).paths] == ["a1.jpg", "a2.jpg"]
    assert [str(p) for p in list_images(["**/*.jpg"]).paths] == [
        "[odd].jpg",
        "a1.jpg",
        "a2.jpg",
        "sub/c.jpg",
    ]
    assert [str(p) for p in list_images(["su*"]).paths] == ["sub/c.jpg"]
    assert [str(p) for p in list_images(["[odd].jpg"]).paths] == ["[odd].jpg"]
    assert "note.txt" not in [str(p) for p in list_images(["*"]).paths]


def test_odd_names_and_case_twins(tmp_path):
    odd = [
        b"a\nb.jpg",
        b"\x1b[31m.jpg",
        b"\xff\xfe.jpg",
        b"-x.jpg",
        b"A.jpg",
        b"a.jpg",
        b"n" * 251 + b".jpg",
    ]
    for name in odd:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    listing = list_images([tmp_path])
    assert [os.fsencode(path.name) for path in listing.paths] == sorted(odd)
    assert list_images([tmp_path]).paths == listing.paths


@given(st.permutations(["b.jpg", "a.jpg", "sub", "c*.jpg", "gone.jpg"]))
def test_the_order_of_sources_does_not_matter(tmp_path_factory, sources):
    root = tmp_path_factory.getbasetemp() / "order"
    if not root.exists():
        touch(root, "a.jpg", "b.jpg", "c1.jpg", "c2.jpg", "sub/d.jpg")
    listing = list_images([root / source for source in sources])
    found = [os.path.relpath(path, root) for path in listing.paths]
    assert found == ["a.jpg", "b.jpg", "c1.jpg", "c2.jpg", "sub/d.jpg"]
    assert len(listing.problems) == 1


def test_many_files_are_listed_fast(tmp_path):
    for number in range(5_000):
        (tmp_path / f"{number}.jpg").touch()
    start = time.perf_counter()
    assert len(list_images([tmp_path]).paths) == 5_000
    assert time.perf_counter() - start < 2


def test_listing_changes_nothing(tmp_path):
    touch(tmp_path, "a.jpg", "sub/b.jpg")
    before = tree_hash(tmp_path)
    list_images([tmp_path])
    assert tree_hash(tmp_path) == before


@pytest.mark.parametrize("is_done", [True, False])
def test_pictures_that_we_drew_are_left_out_and_counted(tmp_path, is_done):
    out = tmp_path / "photos" / "out"
    for name in ("photos/a.jpg", "photos/out/overlays/a.jpg", "photos/overlays/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    if is_done:
        (out / "detections.json").write_text("[]")
    photos = [tmp_path / "photos/a.jpg", tmp_path / "photos/overlays/b.jpg"]
    for sources in (["photos"], ["photos/**"], ["photos", "photos/out"], ["photos/./out/.."]):
        found = list_images([tmp_path / each for each in sources], out)
        assert sorted(map(os.path.realpath, found.paths)) == [str(each) for each in photos]
        assert found.own >= 1
        assert "drew" in found.own_words
    assert not list_images([out / "overlays"], out).paths
    other = list_images([tmp_path / "photos"], tmp_path / "elsewhere")
    assert other.own == is_done  # of an earlier run into another folder
    named = list_images([out / "overlays" / "a.jpg"], out)
    assert (len(named.paths), named.own, named.own_words) == (1, 0, "")
    inside = list_images([tmp_path / "photos"], tmp_path)  # the photos lie in the out folder
    assert set(photos) <= set(inside.paths)


@pytest.mark.parametrize(
    ("sources", "files"),
    [
        (["."], ["p/cam1/a.jpg", "p/cam2/a.jpg", "top.jpg"]),
        (["p"], ["cam1/a.jpg", "cam2/a.jpg"]),
        (["p/cam1"], ["a.jpg"]),
        (["p/cam1", "p/cam2"], ["cam1/a.jpg", "cam2/a.jpg"]),
        (["p/cam1/a.jpg"], ["a.jpg"]),
        (["p/cam1/a.jpg", "p/cam2/a.jpg"], ["cam1/a.jpg", "cam2/a.jpg"]),
        (["p/cam*/*.jpg"], ["cam1/a.jpg", "cam2/a.jpg"]),
        (["p/cam1/*.jpg"], ["a.jpg"]),
        (["p/**/a.jpg"], ["cam1/a.jpg", "cam2/a.jpg"]),
        (["p/cam1", "top.jpg"], ["p/cam1/a.jpg", "top.jpg"]),
        (["p", "p/cam1/a.jpg"], ["cam1/a.jpg", "cam2/a.jpg"]),
        (["p/cam1", "no/such/place", "no*.jpg"], ["a.jpg"]),
        (["p/../p/./cam1", "p/cam2/"], ["cam1/a.jpg", "cam2/a.jpg"]),
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_files_are_named_from_the_folder_that_holds_all_that_was_given(
    tmp_path, monkeypatch, sources, files, absolute
):
    touch(tmp_path, "p/cam1/a.jpg", "p/cam2/a.jpg", "top.jpg")
    monkeypatch.chdir(tmp_path)
    given = [f"{tmp_path}/{each}" if absolute else each for each in sources]
    found = list_images(given)
    assert [found.files[path] for path in found.paths] == files


def test_no_two_files_have_one_name(tmp_path):
    touch(tmp_path, "deep/inside/x.jpg", "deep/a.jpg", "a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "inside")
    found = list_images([f"{tmp_path}/link/../a.jpg", tmp_path / "a.jpg"])
    assert len(set(found.files.values())) == len(found.paths) == 2


def test_pictures_that_we_drew_in_folders_below_are_left_out(tmp_path):
    touch(tmp_path, "photos/cam1/a.jpg", "photos/out/overlays/cam1/a.jpg")
    (tmp_path / "photos/out/detections.json").write_text("[]")
    found = list_images([tmp_path / "photos"])
    assert list(found.files.values()) == ["cam1/a.jpg"]
    assert found.own == 1

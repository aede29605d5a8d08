"""Pascal VOC: corners, splits, where images are found, and every way in which an XML can be bad."""

import contextlib
import os
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from image_files import (
    encode,
    make_voc,
    photo,
    tree_hash,
    voc_object,
    voc_xml,
    write_image,
    write_split,
)
from sppnet.errors import InputError, NothingUsableError, UsageError
from sppnet.images import list_voc_splits, open_detection_dataset, read_voc
from sppnet.images.readers.voc import MAX_XML_BYTES, read_voc_annotation, read_xml

GOOD = voc_object((1, 1, 10, 10))
SIZE = {"a.jpg": (40, 60)}


def one(tmp_path, text):
    """A set of this annotation and a good one."""
    root = make_voc(tmp_path / "set", {"a": text, "b": voc_xml(GOOD)}, {**SIZE, "b.jpg": (40, 60)})
    return read_voc(root)


# --- corners -------------------------------------------------------------------------------------


def test_corners_become_half_open_here(tmp_path):
    marks = "<difficult>1</difficult><truncated>1</truncated>"
    dataset = one(tmp_path, voc_xml(GOOD + voc_object((5, 6, 60, 40), "dog", marks)))
    image = dataset[0]
    assert image.image_id == "a"
    assert image.size_hw == (40, 60)
    assert image.boxes.tolist() == [[0, 0, 10, 10], [4, 5, 60, 40]]
    assert image.boxes.dtype == torch.float32
    assert image.labels.tolist() == [0, 1]
    assert image.labels.dtype == torch.int64
    assert image.difficult.tolist() == [False, True]
    assert image.truncated.tolist() == [False, True]
    assert image.crowd.tolist() == [False, False]
    assert dataset.names == ("cat", "dog")
    assert dataset.boxes_per_class() == {"cat": 2, "dog": 1}
    assert dataset.problems == ()
    assert dataset.notes == ()
    assert image.load().shape == (3, 40, 60)


def test_an_image_without_boxes_stays(tmp_path):
    dataset = one(tmp_path, voc_xml())
    assert len(dataset) == 2
    assert dataset[0].boxes.shape == (0, 4)
    assert dataset[0].labels.shape == (0,)
    assert dataset[0].difficult.dtype == torch.bool


BAD_BOXES = {
    "zero width": ((5, 5, 5, 9), "no area", "E_BOX"),
    "zero height": ((5, 5, 9, 5), "no area", "E_BOX"),
    "reversed": ((9, 5, 5, 9), "reversed", "E_BOX"),
    "outside": ((100, 5, 120, 9), "less than 1 px", "E_BOX"),
    "left of it": ((-30, 5, -2, 9), "less than 1 px", "E_BOX"),
    "half a pixel inside": ((60.5, 5, 90, 9), "less than 1 px", "E_BOX"),
    "nan": (("nan", 5, 9, 9), "finite number", "E_BOX"),
    "infinite": ((1, 5, "inf", 9), "finite number", "E_BOX"),
    "1e999": ((1, 5, "1e999", 9), "finite number", "E_BOX"),
    "words": (("left", 5, 9, 9), "finite number", "E_BOX"),
    "nothing": (("", 5, 9, 9), "finite number", "E_BOX"),
}


@pytest.mark.parametrize("name", BAD_BOXES)
def test_a_bad_box_is_one_problem_with_its_line(tmp_path, name):
    corners, rule, code = BAD_BOXES[name]
    dataset = one(tmp_path, voc_xml(GOOD + voc_object(corners, "dog") + GOOD))
    assert len(dataset) == 2
    assert len(dataset[0].labels) == 2
    assert len(dataset.problems) == 1
    problem = dataset.problems[0]
    assert rule in problem.rule
    assert problem.code == code
    assert problem.path.endswith("a.xml")
    assert problem.line == 3
    assert problem.action == "box left out"
    assert "object 2" in problem.rule


@pytest.mark.parametrize("corners", [(-50, 5, 9, 9), (1, 1, 1e30, 9), (10, 10, 62.5, 20)])
def test_a_box_beyond_the_edge_is_clipped_and_noted(tmp_path, corners):
    dataset = one(tmp_path, voc_xml(voc_object(corners)))
    assert dataset.problems == ()
    assert len(dataset.notes) == 1
    assert dataset.notes[0].action == "clipped to the image"
    x1, y1, x2, y2 = dataset[0].boxes[0].tolist()
    assert 0 <= x1 < x2 <= 60
    assert 0 <= y1 < y2 <= 40


def test_counting_from_zero_is_not_worth_a_word(tmp_path):
    dataset = one(tmp_path, voc_xml(voc_object((0, 0, 60, 41))))
    assert dataset.notes == ()
    assert dataset[0].boxes.tolist() == [[0, 0, 60, 40]]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(*[st.floats(width=32) | st.integers(-100, 200)] * 4), max_size=4))
def test_any_corners_give_boxes_inside_or_problems(tmp_path_factory, all_corners):
    root = tmp_path_factory.getbasetemp() / "any"
    if not root.exists():
        make_voc(root, {"a": ""}, SIZE)
    text = voc_xml("".join(voc_object(corners) for corners in [*all_corners, (1, 1, 9, 9)]))
    (root / "Annotations" / "a.xml").write_text(text)
    dataset = read_voc(root, names=["cat"])
    boxes = dataset[0].boxes
    assert len(boxes) + len(dataset.problems) == len(all_corners) + 1
    assert boxes.isfinite().all()
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= torch.tensor([60, 40])).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 1 - 1e-4).all()


# --- XML -----------------------------------------------------------------------------------------

BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
BAD_XML = {
    "nothing": ("", "empty", "E_EMPTY"),
    "text": ("no xml", "line 1", "E_XML"),
    "cut": (voc_xml(GOOD)[:60], "line", "E_XML"),
    "two roots": ("<annotation/><annotation/>", "junk after document element", "E_XML"),
    "other root": ("<html></html>", "the root must be <annotation>, is <html>", "E_XML"),
    "doctype": ("<!DOCTYPE annotation><annotation/>", "a DTD is not allowed", "E_XML"),
    "billion laughs": (BOMB + "<annotation>&b;</annotation>", "a DTD is not allowed", "E_XML"),
    "external entity": (
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>',
        "a DTD is not allowed",
        "E_XML",
    ),
    "external DTD": ('<!DOCTYPE x SYSTEM "http://x.test/x.dtd"><annotation/>', "DTD", "E_XML"),
    "unknown entity": ("<annotation>&e;</annotation>", "undefined entity", "E_XML"),
    "deep": ("<annotation>" + "<a>" * 100_000, "nested at most 32 deep", "E_XML"),
    "unknown encoding": (
        '<?xml version="1.0" encoding="none-such"?><annotation/>',
        "encoding",
        "E_XML",
    ),
    "multi-byte encoding": (
        '<?xml version="1.0" encoding="johab"?><annotation/>',
        "encoding",
        "E_XML",
    ),
    "too large": (
        "<annotation>" + " " * MAX_XML_BYTES + "</annotation>",
        "1,000,000 bytes",
        "E_TOO_LARGE",
    ),
}


@pytest.mark.parametrize("name", BAD_XML)
def test_a_bad_file_is_one_problem_and_the_rest_goes_on(tmp_path, name):
    text, rule, code = BAD_XML[name]
    start = time.perf_counter()
    dataset = one(tmp_path, text)
    assert time.perf_counter() - start < 0.5
    assert [image.image_id for image in dataset] == ["b"]
    assert len(dataset.problems) == 1
    assert rule in str(dataset.problems[0])
    assert dataset.problems[0].code == code
    assert dataset.problems[0].path.endswith("a.xml")
    assert str(dataset.problems[0]).isprintable()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("<object><bndbox/></object>", "object 1 must have one <name>, has 0"),
        ("<object><name>a</name></object>", "object 1 must have one <bndbox>, has 0"),
        ("<object><name> </name><bndbox/></object>", "object 1 has an empty <name>"),
        ("<object><name>a</name><name>b</name></object>", "one <name>, has 2"),
        (voc_object((1, 1, 5, 5), extra="<bndbox/>"), "one <bndbox>, has 2"),
        (voc_object((1, 1, 5, 5)).replace("<xmin>1</xmin>", ""), "one <xmin>, has 0"),
        (voc_object((1, 1, 5, 5)).replace("<xmin>1</xmin>", "<xmin>1</xmin>" * 2), "<xmin>, has 2"),
        ("<object/>", "one <name>, has 0"),
    ],
)
def test_missing_and_double_tags_name_the_line(tmp_path, text, rule):
    dataset = one(tmp_path, voc_xml(text + GOOD))
    assert len(dataset[0].labels) == 1
    assert rule in dataset.problems[0].rule
    assert dataset.problems[0].line == 2


EAST_ASIAN = {
    "GBK": "\u732b\u9f8d",
    "gb2312": "\u732b",
    "GB18030": "\u732b\u3400",
    "Shift_JIS": "\u732b\u30bd",  # the second byte of the last is a backslash
    "cp932": "\u2460",
    "Big5": "\u8c93\u529f",
    "EUC-JP": "\u732b",
    "iso-2022-jp": "\u732b",
    "EUC-KR": "\uace0\uc591\uc774",
}


@pytest.mark.parametrize("encoding", EAST_ASIAN)
@pytest.mark.parametrize("quote", ['"', "'"])
def test_annotations_in_east_asian_encodings(tmp_path, encoding, quote):
    head = f"<?xml version='1.0' encoding={quote}{encoding}{quote} ?>\n"
    path = tmp_path / "a.xml"
    name = EAST_ASIAN[encoding]
    text = head + voc_xml(voc_object((1, 1, 5, 5), name) + voc_object((5, 5, 5, 9)))
    path.write_bytes(text.encode(encoding))
    annotation = read_voc_annotation(path)
    assert annotation.boxes[0].class_name == name
    assert annotation.problems[0].line == 4
    path.write_bytes(head.encode() + b"<annotation>\x81 </annotation>")
    with pytest.raises(InputError, match=f"is not text in {encoding}, the encoding that"):
        read_voc_annotation(path)


def test_an_annotation_of_two_images_is_left_out(tmp_path):
    files = {"a.jpg": (40, 60), "a.png": (40, 60), "b.jpg": (40, 60)}
    text = voc_xml(voc_object((1, 1, 5, 5)), "")
    root = make_voc(tmp_path / "set", {"a": text, "b": text}, files)
    dataset = read_voc(root)
    assert [image.image_id for image in dataset] == ["b"]
    assert "is of 'a.jpg' or of 'a.png'" in dataset.problems[0].rule
    (root / "Annotations" / "a.xml").write_text(voc_xml(voc_object((1, 1, 5, 5)), "a.png"))
    assert [image.path.name for image in read_voc(root)] == ["a.png", "b.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line", ["a", "a.jpg", "JPEGImages\\a.jpg", "./JPEGImages/a.jpg", "a  1"])
def test_lists_as_windows_writes_them(tmp_path, encoding, line):
    text = voc_xml(voc_object((1, 1, 5, 5)))
    root = make_voc(tmp_path / "set", {"a": text, "b": text}, {"a.jpg": (9, 9), "b.jpg": (9, 9)})
    write_split(root, "train", "")
    (root / "ImageSets" / "Main" / "train.txt").write_bytes(f"{line}\r\n".encode(encoding))
    dataset = read_voc(root, "train")
    assert [image.image_id for image in dataset] == ["a"]
    assert dataset.problems == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
def test_encodings_and_byte_order_marks(tmp_path, encoding):
    head = "" if encoding.startswith("utf") else f'<?xml version="1.0" encoding="{encoding}"?>'
    path = tmp_path / "a.xml"
    path.write_bytes((head + voc_xml(voc_object((1, 1, 5, 5), "mèr"))).encode(encoding))
    assert read_voc_annotation(path).boxes[0].class_name == "mèr"


def test_parts_of_a_person_are_not_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    assert one(tmp_path, voc_xml(voc_object((1, 1, 5, 5), extra=part))).problems == ()


@pytest.mark.parametrize(
    "text",
    [
        "<a>" + "x" * 900_000 + "</a>",
        "<" + "x" * 900_000 + "/>",
        "<a " + 'b="' + "x" * 900_000 + '"/>',
    ],
)
def test_long_tokens_take_linear_time(tmp_path, text):
    path = tmp_path / "a.xml"
    path.write_text(text)
    start = time.perf_counter()
    read_xml(path)
    assert time.perf_counter() - start < 0.5


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mutated_files_raise_only_input_errors(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "mutated.xml"
    content = bytearray(voc_xml(GOOD + GOOD).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=4))
    path.write_bytes(bytes(content))
    try:
        read_voc_annotation(path)
    except InputError as error:
        assert error.code in ("E_XML", "E_EMPTY")  # noqa: PT017


@contextlib.contextmanager
def opened_files():
    """The files that Python opens meanwhile; an audit hook cannot be removed, only put to sleep."""
    opened, awake = [], [True]

    def watch(event, args):
        if awake[0] and event == "open":
            opened.append(
                os.fsdecode(args[0]) if isinstance(args[0], str | bytes) else str(args[0])
            )

    sys.addaudithook(watch)
    yield opened
    awake[0] = False


# --- where images are found ----------------------------------------------------------------------


def test_the_stem_of_the_xml_comes_first_then_the_filename(tmp_path):
    images = {"a.png": (10, 20), "other.jpg": (30, 30)}
    annotations = {"a": voc_xml(GOOD, "other.jpg"), "x": voc_xml(GOOD, "some/where/other.png")}
    dataset = read_voc(make_voc(tmp_path / "set", annotations, images))
    assert [(image.image_id, image.path.name) for image in dataset] == [
        ("a", "a.png"),
        ("x", "other.jpg"),
    ]
    assert dataset.problems == ()


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..\\..\\secret.jpg", "a\0.jpg", ".."]
)
def test_a_filename_never_leads_out_of_the_set(tmp_path, name):
    write_image(tmp_path / "secret.jpg")
    text = voc_xml(GOOD, name.replace("\0", ""))
    root = make_voc(tmp_path / "set", {"x": text, "b": voc_xml(GOOD)}, {"b.jpg": (40, 60)})
    with opened_files() as opened:
        dataset = read_voc(root)
    assert [image.image_id for image in dataset] == ["b"]
    assert "there is no image x.*" in dataset.problems[0].rule
    assert any(path.endswith("b.jpg") for path in opened)  # the watch is awake
    outside = [path for path in opened if "secret" in path or "passwd" in path]
    assert outside == []


def test_the_real_size_rules(tmp_path):
    wrong = "<size><width>999</width><height>0</height></size>"
    dataset = one(tmp_path, voc_xml(voc_object((1, 1, 60, 40)), size=wrong))
    assert dataset[0].size_hw == (40, 60)
    assert "says 999 x 0, the image is 60 x 40" in dataset.notes[0].rule


def test_boxes_drawn_before_the_exif_rotation_are_noted(tmp_path):
    stored = "<size><width>60</width><height>40</height></size>"
    root = make_voc(tmp_path / "set", {"a": voc_xml(GOOD, size=stored)})
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / "JPEGImages" / "a.jpg").write_bytes(encode(photo(40, 60), "JPEG", exif=exif))
    dataset = read_voc(root)
    assert dataset[0].size_hw == (60, 40)
    assert "EXIF" in dataset.notes[0].rule


def test_missing_images_and_annotations_are_problems(tmp_path):
    root = make_voc(
        tmp_path / "set",
        {"a": voc_xml(GOOD), "gone": voc_xml(GOOD, "gone.jpg")},
        {**SIZE, "bare.jpg": (9, 9), "text.jpg": (9, 9)},
    )
    (root / "JPEGImages" / "text.jpg").write_text("no image")
    (root / "Annotations" / "text.xml").write_text(voc_xml(GOOD))
    dataset = read_voc(root)
    assert [image.image_id for image in dataset] == ["a"]
    found = {problem.path.rsplit("/", 1)[1]: problem.code for problem in dataset.problems}
    assert found == {"bare.jpg": "E_XML", "gone.xml": "E_UNREADABLE", "text.jpg": "E_FORMAT"}


# --- layouts and splits --------------------------------------------------------------------------


@pytest.mark.parametrize("below", ["", "VOCdevkit/VOC2007", "VOC2012"])
def test_nesting(tmp_path, below):
    make_voc(tmp_path / "top" / below, {"a": voc_xml(GOOD)}, SIZE)
    assert len(open_detection_dataset(tmp_path / "top")) == 1


def test_several_years_ask_for_one(tmp_path):
    for year in (2007, 2012):
        make_voc(tmp_path / "VOCdevkit" / f"VOC{year}", {"a": voc_xml(GOOD)}, SIZE)
    with pytest.raises(UsageError, match=r"VOC2007.*VOC2012"):
        read_voc(tmp_path)


def test_xml_beside_the_images(tmp_path):
    write_image(tmp_path / "a.jpg", 40, 60)
    (tmp_path / "a.xml").write_text(voc_xml(GOOD))
    (tmp_path / "._a.xml").write_text("rubbish of some file systems")
    dataset = open_detection_dataset(tmp_path)
    assert dataset.layout == "voc"
    assert len(dataset) == 1
    assert dataset.problems == ()


def test_splits(tmp_path):
    annotations = {name: voc_xml(voc_object((1, 1, 9, 9), f"class {name}")) for name in "abc"}
    root = make_voc(tmp_path / "set", annotations, {f"{name}.jpg": (20, 20) for name in "abc"})
    write_split(root, "train", "\ufeffc\na.jpg\n\n a \nzzz\n../../etc/passwd\n")
    write_split(root, "val", "b  1\n")
    write_split(root, "cat_train", "a -1\n")
    write_split(root, "my_list", "a\n")
    assert list_voc_splits(root) == ["my_list", "train", "val"]
    train, val = read_voc(root, "train"), read_voc(root, "val")
    assert [image.image_id for image in train] == ["c", "a"]
    assert [image.image_id for image in val] == ["b"]
    assert train.names == val.names == ("class a", "class b", "class c")
    assert [problem.code for problem in train.problems] == ["E_XML", "E_XML"]
    assert "listed in line 2 already" in train.notes[0].rule
    assert train.notes[0].line == 4
    assert len(read_voc(root)) == 3


@pytest.mark.parametrize("split", ["test", "cat_train", "../Main/train", "", "train\0"])
def test_an_unknown_split_lists_the_known_ones(tmp_path, split):
    root = make_voc(tmp_path / "set", {"a": voc_xml(GOOD)}, SIZE)
    for name in ("train", "val", "cat_train"):
        write_split(root, name, "a\n")
    with pytest.raises(UsageError, match="splits of this set: train, val"):
        read_voc(root, split)


def test_given_names_rule(tmp_path):
    root = make_voc(tmp_path / "set", {"a": voc_xml(GOOD + voc_object((1, 1, 5, 5), "dog"))}, SIZE)
    dataset = read_voc(root, names=["person", "dog"])
    assert dataset.names == ("person", "dog")
    assert dataset[0].labels.tolist() == [1]
    assert "class 'cat', which is not among the names" in dataset.problems[0].rule
    (tmp_path / "names.txt").write_text("dog\n\n cat \n")
    assert read_voc(root, names=tmp_path / "names.txt")[0].labels.tolist() == [1, 0]
    for bad in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="names must be given once each"):
            read_voc(root, names=bad)


@pytest.mark.parametrize(
    ("prepare", "error", "text"),
    [
        (str, UsageError, "does not exist"),
        (lambda p: p.touch(), UsageError, "must be a folder"),
        (lambda p: p.mkdir(), NothingUsableError, "looked for"),
        (lambda p: make_voc(p, {}, SIZE), NothingUsableError, "Annotations"),
        (lambda p: make_voc(p, {"a": "x"}, SIZE), NothingUsableError, "first problem"),
        (lambda p: make_voc(p, {"a": voc_xml(GOOD)}), NothingUsableError, "no usable image"),
    ],
)
def test_nothing_to_read(tmp_path, prepare, error, text):
    prepare(tmp_path / "set")
    with pytest.raises(error, match=text) as caught:
        read_voc(tmp_path / "set")
    assert str(caught.value).isprintable()
    assert type(caught.value) is error


def test_reading_changes_nothing(tmp_path):
    root = make_voc(tmp_path / "set", {"a": voc_xml(GOOD), "b": "bad"}, SIZE)
    before = tree_hash(root)
    list(read_voc(root))
    assert tree_hash(root) == before


# --- real sets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split", "images", "boxes", "problems"),
    [
        ("raccoon", None, 200, 217, 0),
        ("raccoon", "train", 160, 175, 0),
        ("raccoon", "test", 40, 42, 0),
        ("bccd", None, 364, 4886, 2),
        ("bccd", "trainval", 292, 3941, 2),
        ("bccd", "test", 72, 945, 0),
    ],
)
def test_real_sets(shared_data, name, split, images, boxes, problems):
    dataset = read_voc(shared_data / name, split)
    assert (len(dataset), dataset.box_count, len(dataset.problems)) == (images, boxes, problems)
    assert all("no area" in problem.rule and problem.line for problem in dataset.problems)

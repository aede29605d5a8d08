"""Proposals from files of others: what is read, and what is said about damaged files."""

import contextlib
import io
import json
import pickle
import random
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat

from sppnet.detection.proposals import precomputed as external_proposals
from sppnet.detection.proposals.precomputed import ExternalProposals
from sppnet.errors import InputError, UnusableFileError

SIZE = (60, 80)
BOXES = np.array([[3.0, 4, 20, 30], [0, 0, 80, 60]])


def save_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def save_mat(path: Path, names: list[str], boxes: list[np.ndarray], **options: object) -> Path:
    cells = [np.empty((len(each), 1), object) for each in (names, boxes)]
    for cell, each in zip(cells, (names, boxes), strict=True):
        cell[:, 0] = [*each] if len(each) else []
    savemat(path, {"images": cells[0], "boxes": cells[1].T}, **options)
    return path


def uneven(*arrays: np.ndarray) -> list[np.ndarray]:
    """Arrays of different lengths, as cells need them."""
    return [np.asarray(each, np.float64) for each in arrays]


def test_npz_is_read_as_it_is(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"000005.jpg": BOXES, "dir/b": BOXES[:0]})
    found = ExternalProposals.open(tmp_path / "a.npz")
    assert len(found) == 2
    proposals = found.look_up("photos/000005.jpg", SIZE)
    assert proposals.dtype == torch.float32
    assert proposals.tolist() == BOXES.tolist()
    assert found.look_up("b.png", SIZE).shape == (0, 4)
    assert torch.equal(found.look_up("5", SIZE), proposals)


def test_coco_results_come_best_first_and_equals_in_the_files_order(tmp_path: Path) -> None:
    entries = [
        {"image_id": 7, "category_id": 1, "bbox": [3, 4, 17, 26], "score": 0.25},
        {"image_id": 7, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 0.75},
        {"image_id": 7, "category_id": 1, "bbox": [5, 5, 2, 2], "score": 0.25},
        {"image_id": 8, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5},
    ]
    found = ExternalProposals.open(save_json(tmp_path / "a.json", entries))
    assert found.look_up("000007.jpg", SIZE).tolist() == [
        [1, 1, 3, 3],
        [3, 4, 20, 30],
        [5, 5, 7, 7],
    ]
    images = [{"id": 7, "file_name": "x/first.jpg"}, {"id": 9, "file_name": "none.jpg"}]
    whole = {"images": images, "annotations": entries[:3]}
    named = ExternalProposals.open(save_json(tmp_path / "b.json", whole))
    assert torch.equal(named.look_up("first.png", SIZE), found.look_up("7", SIZE))
    assert named.look_up("none.jpg", SIZE).shape == (0, 4)


@pytest.mark.parametrize("compressed", [False, True])
def test_mat_files_of_2014_count_rows_and_columns_from_one(
    tmp_path: Path, compressed: bool
) -> None:
    first = np.array([[1, 1, 60, 80], [5, 4, 30, 20]])  # y1 x1 y2 x2, inclusive
    boxes = uneven(first, [[2, 3, 2, 3]], np.zeros((0, 0)))
    path = save_mat(tmp_path / "a.mat", ["000005", "000007", "9"], boxes, do_compression=compressed)
    found = ExternalProposals.open(path)
    assert found.look_up("000005.jpg", SIZE).tolist() == [[0, 0, 80, 60], [3, 4, 20, 30]]
    assert found.look_up("000007.jpg", SIZE).tolist() == [[2, 1, 3, 2]]  # one pixel
    assert found.look_up("9.jpg", SIZE).shape == (0, 4)


@pytest.mark.parametrize("compressed", [False, True])
def test_mat_files_are_read_as_scipy_reads_them(tmp_path: Path, compressed: bool) -> None:
    draw = np.random.default_rng(0)
    names = [f"{number:06d}" for number in range(20)] + ["é", "x" * 300]
    kinds = [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, np.int64]
    boxes = [
        np.sort(draw.integers(1, 200, (draw.integers(1, 9), 2, 2)), 1).reshape(-1, 4).astype(kind)
        for _, kind in zip(names, kinds * 4, strict=False)
    ]
    path = save_mat(tmp_path / "a.mat", names, boxes, do_compression=compressed)
    content = loadmat(path)
    found = external_proposals._read_mat(path)
    assert list(found) == [str(cell.item()) for cell in content["images"].ravel()] == names
    for name, cell in zip(names, content["boxes"].ravel(), strict=True):
        assert np.array_equal(found[name], cell[:, [1, 0, 3, 2]] - np.array([1.0, 1, 0, 0]))


@pytest.mark.parametrize("compressed", [False, True])
def test_a_flipped_bit_of_a_mat_file_kills_nothing(tmp_path: Path, compressed: bool) -> None:
    path = save_mat(tmp_path / "a.mat", ["a", "b"], [BOXES + 1] * 2, do_compression=compressed)
    data, draw = path.read_bytes(), random.Random(0)
    outcomes = set()
    for _ in range(1500):
        spoiled = bytearray(data)
        spoiled[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(spoiled[: draw.choice((len(data), draw.randrange(len(data))))])
        try:
            outcomes.add(len(ExternalProposals.open(path)))
        except UnusableFileError as error:
            outcomes.add("refused" if "\n" not in str(error) else str(error))
    assert outcomes == {2, "refused"}


def test_a_mat_file_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    path = save_mat(tmp_path / "a.mat", ["a"], [np.ones((100_000, 4))], do_compression=True)
    with pytest.raises(UnusableFileError, match="unpacks to more than"):
        ExternalProposals.open(path)


def npy_of_shape(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f8", "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + bytes(64)


@pytest.mark.parametrize("shape", [(10**12, 4), (10**30, 4), (3, 4), (2**62, 2**62), (0, 0)])
def test_an_npz_that_announces_other_than_it_holds_is_refused(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("cat.npy", npy_of_shape(shape))
    with pytest.raises(UnusableFileError, match="no npz of plain arrays"):
        ExternalProposals.open(tmp_path / "a.npz")


@pytest.mark.parametrize("method", [1, 6, 9, 93, 97, 99, "secret"])
def test_odd_methods_of_packing_are_refused(tmp_path: Path, method: int | str) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat.npy", npy_of_shape((2, 4)))
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # flags, then the method, in both headers
        place = data.index(mark) + at
        field = (1, 0) if method == "secret" else (0, int(method))
        data[place : place + 4] = struct.pack("<HH", *field)
    path.write_bytes(data)
    with pytest.raises(UnusableFileError, match="no npz of plain arrays"):
        ExternalProposals.open(path)


def test_a_flipped_bit_of_an_npz_is_no_bug(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=BOXES, b=BOXES)
    data, draw = path.read_bytes(), random.Random(0)
    for _ in range(600):
        spoiled = bytearray(data)
        spoiled[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(spoiled)
        with contextlib.suppress(UnusableFileError):
            ExternalProposals.open(path)


@pytest.mark.parametrize(
    ("photo", "row"),
    [
        ("/data/photos/cam1/a.jpg", 1),
        ("/data/photos/cam2/a.png", 2),
        ("/data/photos/cam3/a.jpg", None),
        ("/data/photos/a.jpg", None),
        ("/mnt/set/b.jpg", 3),
    ],
)
def test_an_entry_with_folders_is_of_the_photo_in_them(photo: str, row: int | None) -> None:
    """The photo of another camera took them: the name alone counted."""
    names = ["cam1/a.jpg", "cam2/a.jpg", "/elsewhere/set/b.jpg", "/elsewhere/other/b.jpg"]
    boxes = {name: np.array([[0.0, 0, n, n]]) for n, name in enumerate(names, start=1)}
    found = ExternalProposals("a.npz", boxes)
    if row is None:
        with pytest.raises(InputError, match="no proposals of this image"):
            found.look_up(photo, SIZE)
        assert found.digest(photo) == ""
    else:
        assert found.look_up(photo, SIZE)[0, 2] == row


def test_a_name_that_fits_two_images_fits_none() -> None:
    found = ExternalProposals("a.npz", {"x/a.jpg": BOXES, "y/a.jpg": BOXES[:1]})
    assert len(found.look_up("x/a.jpg", SIZE)) == 2
    assert len(found.look_up("y/a.jpg", SIZE)) == 1
    with pytest.raises(InputError, match=r"'z/a.jpg': a.npz has no proposals of this image"):
        found.look_up("z/a.jpg", SIZE)


def test_proposals_are_clipped_by_little_and_refused_by_more() -> None:
    found = ExternalProposals("a.npz", {"a": BOXES + np.array([0, 0, 1.5, 0])})
    assert found.look_up("a.jpg", SIZE)[1].tolist() == [0, 0, 80, 60]
    with pytest.raises(InputError, match=r"a.npz reach beyond the 40 x 60 pixels"):
        found.look_up("a.jpg", (60, 40))


@pytest.mark.parametrize(
    "boxes",
    [
        BOXES[0],
        BOXES[:, :3],
        BOXES.astype(complex),
        BOXES.astype(str),
        BOXES * np.nan,
        BOXES + np.inf,
        BOXES[:, ::-1],
        np.array([[3.0, 4, 3, 9]]),
    ],
)
def test_what_is_no_proposal_is_named_by_file_and_image(tmp_path: Path, boxes: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", cat=boxes)
    with pytest.raises(UnusableFileError, match=r"a\.npz'.*'cat'"):
        ExternalProposals.open(tmp_path / "a.npz")


class Planted:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return (Path("planted").touch, ())


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", cat=np.array([Planted()], object), allow_pickle=True)
    Path("b.npz").write_bytes(pickle.dumps(Planted()))
    for name in ("a.npz", "b.npz"):
        with pytest.raises(UnusableFileError, match="no npz of plain arrays"):
            ExternalProposals.open(name)
    assert not Path("planted").exists()


def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "a.npz", cat=np.zeros((10_000, 4)))
    monkeypatch.setattr(external_proposals, "MAX_BYTES", 100_000)
    with pytest.raises(UnusableFileError, match="more than 100000 bytes"):
        ExternalProposals.open(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".npz", ".json", ".mat"])
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "noise", "missing", "folder"])
def test_damaged_files_are_one_error_with_their_name(
    tmp_path: Path, suffix: str, damage: str
) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        np.savez_compressed(path, cat=np.random.default_rng(0).random((50, 4)))
    elif suffix == ".json":
        save_json(path, [{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}] * 9)
    else:
        save_mat(path, ["a", "b"], uneven(BOXES + 1, BOXES[:1] + 1), do_compression=True)
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    data[half] ^= 0xFF
    spoiled = {"empty": b"", "cut": bytes(data[:half]), "flipped": data, "noise": bytes(range(256))}
    path.unlink()
    if damage in spoiled:
        path.write_bytes(spoiled[damage])
    elif damage == "folder":
        path.mkdir()
    with pytest.raises(UnusableFileError, match=re.escape(path.name)):
        ExternalProposals.open(path)


@pytest.mark.parametrize(
    "content",
    [
        3,
        {"images": []},
        [3],
        [{"image_id": 1}],
        [{"bbox": [1, 2, 3, 4]}],
        [{"image_id": 1, "bbox": [1, 2, 3]}],
        [{"image_id": 1, "bbox": "abcd"}],
        [{"image_id": 1, "bbox": [1, 2, 3, 4], "score": "high"}],
        [{"image_id": 1, "bbox": [1, 2, 3, 10**400]}],
        [{"image_id": 1, "bbox": [1, 2, -3, 4]}],
        {"images": [{"id": 1}], "annotations": []},
    ],
)
def test_json_of_another_kind_is_named(tmp_path: Path, content: object) -> None:
    with pytest.raises(UnusableFileError, match=r"a\.json"):
        ExternalProposals.open(save_json(tmp_path / "a.json", content))


def test_mat_files_of_another_kind_are_named(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"other": 3})
    save_mat(tmp_path / "b.mat", ["a", "b", "c"], uneven(BOXES, BOXES[:1]))
    save_mat(tmp_path / "c.mat", ["a", "a"], uneven(BOXES, BOXES[:1]))
    save_mat(tmp_path / "d.mat", ["a", "b"], uneven(BOXES[:, :3], BOXES[:1]))
    (tmp_path / "e.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(512))
    for name in "abcde":
        with pytest.raises(UnusableFileError, match=rf"{name}\.mat"):
            ExternalProposals.open(tmp_path / f"{name}.mat")


def test_other_endings_are_refused_with_the_legal_ones(tmp_path: Path) -> None:
    with pytest.raises(UnusableFileError, match=r"'\.json', '\.mat', '\.npz'"):
        ExternalProposals.open(tmp_path / "a.pkl")


@pytest.mark.parametrize("shape", ["{" * 200, "(" * 300, "(1, 2", "[]", "(1,) * 10", "\t\n 1"])
def test_headers_of_npy_that_python_cannot_read(tmp_path: Path, shape: str) -> None:
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}".encode().ljust(400)
    data = b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + bytes(64)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x" * 50_000 + ".npy", data)
    with pytest.raises(UnusableFileError, match="is no npz of plain arrays") as caught:
        ExternalProposals.open(tmp_path / "a.npz")
    assert len(str(caught.value)) < 2000

"""Rows say what the models say, photo by photo, and why a photo gives nothing."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from sppnet.bulk.photos import list_photos, read_photo
from sppnet.bulk.rows import (
    Describing,
    Detecting,
    Look,
    Naming,
    check_open,
    look_at,
    schema_of,
)
from sppnet.classification import Classifier, TransferClassifier, load_classifier
from sppnet.detection import Detector
from sppnet.errors import InputError, MissingPackageError, UnusableFileError, UsageError
from sppnet.images import load_image

pytestmark = pytest.mark.usefixtures("one_thread")


def _good(photos: Path) -> list[str]:
    return sorted(str(path) for path in photos.glob("*/0*.png"))


def test_rows_of_detections_are_what_the_detector_finds(models, photos):
    detector = Detector.load(models.detector)
    table = look_at(Detecting((models.detector,)).open("cpu"), _good(photos))
    found_any = 0
    for row, path in zip(table.to_pylist(), _good(photos), strict=True):
        found = detector.predict(path)
        image = load_image(path)
        assert row["error"] is None
        assert (row["height"], row["width"]) == tuple(image.shape[1:])
        assert row["bytes"] == Path(path).stat().st_size
        assert np.array(row["boxes"], np.float32).reshape(-1, 4).tolist() == found.boxes.tolist()
        assert row["scores"] == found.scores.tolist()
        assert row["labels"] == found.labels.tolist()
        assert row["names"] == [detector.names[label] for label in row["labels"]]
        assert row["confidence"] == found.confidence.float().tolist()
        assert row["counts"] == (found.scores.double() >= 0.02).tolist()
        found_any += found.count
    assert found_any > 0


def test_a_least_score_leaves_out_what_is_below(models, photos):
    everything = look_at(Detecting((models.detector,)).open("cpu"), _good(photos)).to_pylist()
    scores = sorted(score for row in everything for score in row["scores"])
    least = scores[len(scores) // 2]
    table = look_at(Detecting((models.detector,), least=least).open("cpu"), _good(photos))
    for row, whole in zip(table.to_pylist(), everything, strict=True):
        assert row["scores"] == [score for score in whole["scores"] if score >= least]
        assert all(row["counts"])


def test_overrides_and_proposals_of_a_file_reach_the_detector(models, photos, tmp_path):
    one = _good(photos)[0]
    box = np.array([[2.0, 3.0, 30.0, 31.0]])
    np.savez(tmp_path / "boxes.npz", **{Path(one).name: box})
    work = Detecting((models.detector,), {"max_detections": 1}, tmp_path / "boxes.npz")
    work = Detecting(work.models, work.overrides, work.proposals)
    [row] = look_at(work.open("cpu"), [one]).to_pylist()
    assert len(row["scores"]) <= 1
    assert row["boxes"] in ([], box.tolist())


def test_a_photo_without_proposals_in_the_file_is_a_row_with_the_reason(models, photos, tmp_path):
    np.savez(tmp_path / "boxes.npz", other=np.array([[2.0, 3.0, 30.0, 31.0]]))
    work = Detecting((models.detector,), proposals=tmp_path / "boxes.npz")
    [row] = look_at(work.open("cpu"), _good(photos)[:1]).to_pylist()
    assert "has no proposals of this image" in row["error"]
    assert row["boxes"] is None


def test_rows_of_classes_are_what_the_classifier_says(models, photos):
    classifier = load_classifier(models.classifier)
    rows = look_at(Naming(models.classifier, top=2).open("cpu"), _good(photos)).to_pylist()
    for row, path in zip(rows, _good(photos), strict=True):
        [best] = classifier.predict([path], top=2)
        assert row["labels"] == best["labels"].tolist()
        assert row["scores"] == best["scores"].tolist()
        assert row["names"] == [classifier.names[label] for label in row["labels"]]
        assert row["confidence"] == row["scores"][0]


def test_the_head_of_a_classifier_takes_the_vectors(models, photos):
    classifier = load_classifier(models.classifier)
    table = look_at(Describing(models.classifier).open("cpu"), _good(photos))
    rows = torch.tensor(np.array(table.column("vector").to_pylist(), np.float32))
    assert torch.equal(classifier.score_rows(rows), classifier.scores(_good(photos)))


def test_vectors_of_fitted_features_are_their_rows(photos, tmp_path):
    from sppnet.backbones import build_backbone
    from sppnet.classification import Block, FeatureEncoder, FeatureRecipe, build_head

    recipe = FeatureRecipe((Block(short_side=32), Block("relu2", "avg", short_side=48)))
    encoder = FeatureEncoder(build_backbone("small5"), recipe)
    TransferClassifier(encoder, build_head(4848, 2), ("cat", "dog")).save(tmp_path / "model")
    table = look_at(Describing(tmp_path / "model").open("cpu"), _good(photos)[:3])
    classifier = load_classifier(tmp_path / "model")
    rows = torch.tensor(np.array(table.column("vector").to_pylist(), np.float32))
    assert torch.equal(rows, encoder.encode([load_image(path) for path in _good(photos)[:3]]))
    assert torch.equal(classifier.score_rows(rows), classifier.scores(_good(photos)[:3]))


def test_vectors_of_regions_are_the_encoder_s(models, photos):
    detector = Detector.load(models.detector)
    work = Describing(models.detector, "proposals", most=7)
    for row, path in zip(
        look_at(work.open("cpu"), _good(photos)).to_pylist(), _good(photos), strict=True
    ):
        image = load_image(path)
        encoded = detector.encode(image)
        boxes = detector.propose(image, encoded)[:7]
        assert row["boxes"] == boxes.tolist()
        assert row["vectors"] == detector.encoder.describe(encoded, boxes).tolist()


def test_the_vector_of_a_whole_photo_by_a_detector_is_that_of_its_whole_box(models, photos):
    path = _good(photos)[0]
    [row] = look_at(Describing(models.detector).open("cpu"), [path]).to_pylist()
    detector, image = Detector.load(models.detector), load_image(path)
    box = torch.tensor([[0.0, 0.0, image.shape[2], image.shape[1]]])
    wanted = detector.encoder.describe(detector.encode(image), box)[0]
    assert row["vector"] == wanted.tolist()


@pytest.mark.parametrize("kind", ["detector", "classifier"])
def test_damaged_photos_are_rows_with_the_message_and_the_rest_goes_on(models, photos, kind):
    folder = getattr(models, kind)
    work = Detecting((folder,)) if kind == "detector" else Naming(folder)
    paths = [str(path) for path in sorted(photos.glob("*/*"))] + [str(photos / "no.jpg")]
    rows = look_at(work.open("cpu"), paths).to_pylist()
    assert [row["path"] for row in rows] == paths
    wrong = {Path(row["path"]).name: row["code"] for row in rows if row["error"] is not None}
    assert wrong == {
        "cut.png": "E_TRUNCATED",
        "text.jpg": "E_FORMAT",
        "empty.png": "E_EMPTY",
        "no.jpg": "E_UNREADABLE",
    }
    for row in rows:
        assert (row["error"] is None) == (row["names"] is not None)
        assert (row["error"] is None) == (row["height"] is not None)


def test_a_bug_at_one_photo_is_its_row_and_a_fault_of_the_work_ends_it(photos):
    def row(path, pixels):
        if path.endswith("001.png"):
            raise RuntimeError("a kernel gave up\nwith details")
        return {}

    rows = look_at(Look({}, (), {}, row), _good(photos)[:3]).to_pylist()
    assert [r["error"] for r in rows] == [None, "RuntimeError: a kernel gave up", None]
    assert rows[1]["code"] == "E_BUG"

    def refuses(path, pixels):
        raise UsageError("--proposals is needed")

    with pytest.raises(UsageError):
        look_at(Look({}, (), {}, refuses), _good(photos)[:1])


def test_the_schema_is_the_same_with_and_without_rows_of_errors(models, photos):
    look = Detecting((models.detector,)).open("cpu")
    good, bad = look_at(look, _good(photos)[:2]), look_at(look, ["no.jpg"])
    assert good.schema == bad.schema == schema_of(look)
    assert schema_of(look).field("boxes").type == pa.list_(pa.list_(pa.float32()))


def test_works_move_with_their_files():
    old, new = (Path("a"), Path("b"), Path("c.npz")), [Path("x/0"), Path("x/1"), Path("x/2.npz")]
    moved = Detecting(old[:2], {"flip": True}, old[2], 0.5).moved(new)
    assert moved == Detecting(tuple(new[:2]), {"flip": True}, new[2], 0.5)
    assert moved.files == tuple(new)
    assert Naming(old[0], "98", top=3).moved(new[:1]) == Naming(new[0], "98", top=3)
    assert Describing(old[0], old[2]).moved(new[1:]) == Describing(new[1], new[2])
    assert Describing(old[0], "proposals").moved(new[:1]) == Describing(new[0], "proposals")


def test_what_cannot_be_meant_is_said_when_it_is_opened(models, tmp_path):
    with pytest.raises(UsageError, match="need a detector"):
        check_open(Describing(models.classifier, "proposals"), "cpu")
    with pytest.raises(UsageError, match="view"):
        check_open(Naming(models.classifier, view="7"), "cpu")
    with pytest.raises(UnusableFileError):
        check_open(Naming(tmp_path), "cpu")


def test_a_missing_package_is_named_with_its_command(monkeypatch, models):
    monkeypatch.setattr("sppnet.bulk.rows.find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'sppnet\[ray\]'"):
        check_open(Naming(models.classifier), "cpu")


def test_photos_are_listed_from_folders_tables_and_addresses_each_once(photos, tmp_path):
    good = _good(photos)
    (tmp_path / "paths.txt").write_text("\n".join([good[0], "", "s3://bucket/key 1.jpg"]))
    parquet.write_table(pa.table({"path": good[:2]}), tmp_path / "paths.parquet")
    sources = [str(tmp_path / "paths.txt"), str(tmp_path / "paths.parquet"), str(photos / "disc")]
    found = list_photos([*sources, f"file://{photos}/level"], tmp_path / "out")
    disc = sorted(map(str, (photos / "disc").iterdir()))
    level = [f"file://{path}" for path in sorted((photos / "level").iterdir())]
    assert sorted(found.paths) == sorted({*good[:2], *disc, *level, "s3://bucket/key 1.jpg"})
    assert len(found.paths) == len(set(found.paths))
    assert found.problems == []


def test_sources_that_give_nothing_are_problems(tmp_path):
    (tmp_path / "empty").mkdir()
    odd = ["no.jpg", f"file://{tmp_path}/no", f"file://{tmp_path}/empty", "nosuch://x/y"]
    found = list_photos(odd, tmp_path / "out")
    assert found.paths == []
    assert {problem.path for problem in found.problems} == set(odd)
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match="no table of paths"):
        list_photos([str(tmp_path / "bad.parquet")], tmp_path / "out")


def test_a_name_that_is_no_text_is_left_out_and_said(photos, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    data = Path(_good(photos)[0]).read_bytes()
    (folder / "b\udcff.png").write_bytes(data)
    (folder / "größe.png").write_bytes(data)
    found = list_photos([str(folder)], tmp_path / "out")
    assert [Path(path).name for path in found.paths] == ["größe.png"]
    assert "UTF-8" in found.problems[0].rule


def test_photos_at_addresses_are_the_same_bytes(photos, tmp_path):
    odd = tmp_path / "a b%20c#d.png"
    odd.write_bytes(Path(_good(photos)[0]).read_bytes())
    assert read_photo(f"file://{odd}") == odd.read_bytes()
    [path] = list_photos([f"file://{tmp_path}"], tmp_path / "out").paths
    assert read_photo(path) == odd.read_bytes()
    with pytest.raises(InputError, match="cannot be read"):
        read_photo(f"file://{tmp_path}/no.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        read_photo(f"file://{tmp_path}/empty.jpg")


def test_file_systems_of_fsspec_are_read_too(photos):
    import fsspec

    memory = fsspec.filesystem("memory")
    data = Path(_good(photos)[0]).read_bytes()
    memory.pipe("/store/x.png", data)
    [path] = list_photos(["memory://store"], Path("out")).paths
    assert read_photo(path) == data


def test_a_classifier_of_the_house_has_vectors_of_its_own_view(models, photos):
    classifier = Classifier.load(models.classifier)
    look = Describing(models.classifier).open("cpu")
    [row] = look_at(look, _good(photos)[:1]).to_pylist()
    assert len(row["vector"]) == classifier.network.backbone.channels * 50

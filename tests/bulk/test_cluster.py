"""Rows on the disk: whole, once each, found again, and never of two models in one table."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from sppnet.app.main import main
from sppnet.bulk import cluster
from sppnet.bulk.cluster import ParquetRows, Workers, count_names, look_at_all, summary_of
from sppnet.bulk.rows import Detecting, Look, look_at
from sppnet.errors import OutputError, UnusableFileError, UsageError

pytestmark = pytest.mark.usefixtures("one_thread")
NOTHING = Look({"kind": "nothing"}, (), {}, lambda *_: {})


def _paths(photos: Path) -> list[str]:
    return [str(path) for path in sorted(photos.glob("*/*"))]


def _rows(out: Path) -> list[dict]:
    files = sorted((out / "rows").glob("part-*.parquet"))
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


def test_what_is_kept_is_found_again_and_errors_are_tried_again(photos, tmp_path):
    with ParquetRows(tmp_path, NOTHING) as store:
        store.add(look_at(NOTHING, _paths(photos)[:9]))
    kept = _rows(tmp_path)
    good = {row["path"] for row in kept if row["error"] is None}
    assert 0 < len(good) < len(kept) == 9
    with ParquetRows(tmp_path, NOTHING) as store:
        assert store.finished() == good
        assert {row["path"] for row in _rows(tmp_path)} == good
        assert list(tmp_path.rglob(".part*")) == []


def test_a_file_without_a_good_row_goes_away(tmp_path):
    with ParquetRows(tmp_path, NOTHING) as store:
        store.add(look_at(NOTHING, ["no/a.jpg", "no/b.jpg"]))
        store.flush()
        assert len(store.parts()) == 1
        assert store.finished() == set()
        assert store.parts() == []


def test_rows_that_wait_are_kept_however_it_ends(photos, tmp_path):
    def stops() -> None:
        with ParquetRows(tmp_path, NOTHING) as store:
            store.add(look_at(NOTHING, _paths(photos)[:2]))
            assert store.parts() == []
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stops()
    assert len(_rows(tmp_path)) == 2


@pytest.mark.parametrize("limit", ["PART_ROWS", "PART_BYTES", "PART_SECONDS"])
def test_a_file_is_written_when_it_is_full_large_or_old(photos, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(cluster, limit, 0)
    with ParquetRows(tmp_path, NOTHING) as store:
        for path in _paths(photos)[:3]:
            store.add(look_at(NOTHING, [path]))
        assert [part.name for part in store.parts()] == [f"part-00000{n}.parquet" for n in range(3)]


def test_numbers_of_files_go_on_after_the_last(photos, tmp_path):
    for path in _paths(photos)[:3]:
        with ParquetRows(tmp_path, NOTHING) as store:
            store.add(look_at(NOTHING, [path]))
    (tmp_path / "rows" / "part-000000.parquet").unlink()
    with ParquetRows(tmp_path, NOTHING) as store:
        store.add(look_at(NOTHING, _paths(photos)[3:4]))
    assert [each.name for each in sorted((tmp_path / "rows").glob("part*"))] == [
        f"part-00000{n}.parquet" for n in (1, 2, 3)
    ]


def test_rows_of_another_model_are_refused_and_fresh_forgets_them(photos, tmp_path):
    with ParquetRows(tmp_path, NOTHING) as store:
        store.add(look_at(NOTHING, _paths(photos)[:2]))
    other = Look({"kind": "nothing", "model": "another"}, (), {}, NOTHING.row)
    with pytest.raises(UsageError, match=r"part-000000.parquet.*another model"):
        ParquetRows(tmp_path, other)
    with ParquetRows(tmp_path, other, fresh=True) as store:
        assert store.finished() == set()
    assert _rows(tmp_path) == []


def test_a_damaged_file_is_named(photos, tmp_path):
    with ParquetRows(tmp_path, NOTHING) as store:
        store.add(look_at(NOTHING, _paths(photos)[:2]))
    part = tmp_path / "rows" / "part-000000.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(UnusableFileError, match=r"part-000000.parquet.*delete it"):
        ParquetRows(tmp_path, NOTHING)
    part.unlink()
    with ParquetRows(tmp_path, NOTHING) as store:  # the lock of the one that failed is free
        assert store.finished() == set()


def test_a_file_is_not_called_damaged_where_threads_are_missing(photos, tmp_path, monkeypatch):
    with ParquetRows(tmp_path, NOTHING) as store:
        store.add(look_at(NOTHING, _paths(photos)[:2]))

    def refuse(*args: object, **kwargs: object) -> None:
        said = "Failed to launch worker thread: Resource temporarily unavailable"
        raise OSError(f"Unknown error: {said}")  # as Arrow words it

    monkeypatch.setattr(parquet.ParquetFile, "read", refuse)
    with (
        ParquetRows(tmp_path, NOTHING) as store,
        pytest.raises(RuntimeError, match="can't start new thread"),  # told as E_THREADS
    ):
        store.finished()
    assert (tmp_path / "rows" / "part-000000.parquet").exists()


def test_two_commands_do_not_write_into_one_folder(tmp_path):
    with ParquetRows(tmp_path, NOTHING), pytest.raises(OutputError, match="another command"):
        ParquetRows(tmp_path, NOTHING)
    with ParquetRows(tmp_path, NOTHING):
        pass


def test_a_row_that_comes_twice_is_kept_once(photos):
    paths = _paths(photos)[:3]
    missing = dict.fromkeys(paths)
    [first] = cluster._once(look_at(NOTHING, paths[:2]), missing)
    [second] = cluster._once(look_at(NOTHING, paths), missing)
    assert first.column("path").to_pylist() == paths[:2]
    assert second.column("path").to_pylist() == paths[2:]
    assert list(cluster._once(look_at(NOTHING, paths), missing)) == []


@pytest.mark.parametrize("count", [1, 4, 100])
def test_here_each_photo_is_looked_at_once(photos, monkeypatch, count):
    monkeypatch.setattr(cluster, "HERE", count)
    tables = look_at_all(None, NOTHING, _paths(photos), Workers())
    assert [path for each in tables for path in each.column("path").to_pylist()] == _paths(photos)


def test_files_travel_with_the_work(models, tmp_path):
    (tmp_path / "boxes.npz").write_bytes(b"boxes")
    for place in (models.detector, tmp_path / "boxes.npz"):
        packed = cluster._pack(place)
        copy = cluster._unpack(packed, tmp_path / "there", place.name)
        assert copy.name == place.name
        assert cluster._pack(copy) == packed


@pytest.mark.parametrize(
    "values",
    [{"engine": "spark"}, {"batch": 0}, {"concurrency": 0}, {"cpus": 0.0}, {"gpus": -1.0}],
)
def test_workers_that_cannot_be(values):
    with pytest.raises(ValueError, match="must be"):
        Workers(**values)


def test_a_model_that_fits_nowhere_is_said_with_what_there_is():
    with pytest.raises(UsageError, match="needs 4 CPU and 1 GPU; there are 2 CPU, 0 GPU"):
        cluster._most_actors({"CPU": 2.0}, Workers("ray", cpus=4, gpus=1))


def test_names_that_count_are_counted(models, photos, tmp_path):
    look = Detecting((models.detector,)).open("cpu")
    with ParquetRows(tmp_path, look) as store:
        store.add(look_at(look, _paths(photos)))
        store.flush()
        found, shown_in = count_names(store)
        rows = _rows(tmp_path)
        for name in look.names:
            per_photo = [
                sum(n == name and c for n, c in zip(row["names"], row["counts"], strict=True))
                for row in rows
                if row["error"] is None
            ]
            assert found[name] == sum(per_photo)
            assert shown_in[name] == sum(map(bool, per_photo))
        assert found.total() > 0
        summary = summary_of(store, 1.5, Workers())
    assert summary["rows"] == len(rows) == summary["good"] + sum(summary["failed"].values())
    assert summary["failed"] == {"E_TRUNCATED": 1, "E_FORMAT": 1, "E_EMPTY": 1}


def test_embed_goes_on_where_it_stopped(models, photos, tmp_path, capfd):
    words = ["embed", str(models.classifier), "--out", str(tmp_path / "out")]
    assert main([*words, str(photos / "upright")]) == 0
    before = _rows(tmp_path / "out")
    assert main([*words, str(photos)]) == 3
    assert "3 of 15 have rows already" in capfd.readouterr().err
    rows = _rows(tmp_path / "out")
    assert rows[:3] == before
    assert sorted(row["path"] for row in rows) == sorted(map(str, photos.glob("*/*")))
    assert main([*words, str(photos)]) == 3  # the damaged ones are tried again, and fail again
    assert sorted(map(repr, _rows(tmp_path / "out"))) == sorted(map(repr, rows))
    written = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert (written["rows"], written["good"]) == (15, 12)
    assert main([*words, str(photos), "--boxes", "proposals"]) == 2
    assert "a detector" in capfd.readouterr().err
    assert main([*words, str(photos), "--dry-run", "--fresh"]) == 0
    assert "would look at 15 photos" in capfd.readouterr().out
    assert len(_rows(tmp_path / "out")) == 15


def test_embed_of_regions_by_a_detector(models, photos, tmp_path):
    words = ["--boxes", "proposals", "--max-boxes", "3", "--out", str(tmp_path / "out")]
    assert main(["embed", str(models.detector), str(photos / "upright"), *words]) == 0
    [part] = (tmp_path / "out" / "rows").glob("part-*.parquet")
    table = parquet.read_table(part)
    assert {len(boxes) for boxes in table.column("boxes").to_pylist()} == {3}
    assert table.schema.field("vectors").type == pa.list_(
        pa.field("element", pa.list_(pa.field("element", pa.float32())))
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "spark"], "engine must be local or ray"),
        (["--engine", "ray", "--every", "2"], "draws nothing"),
        (["--engine", "ray", "--show-above", "0.5"], "draws nothing"),
        (["--engine", "ray", "--device", "cuda"], "--gpus"),
        (["--address", "127.0.0.1:1"], "--address goes with --engine ray only"),
        (["--concurrency", "2"], "--concurrency goes with"),
        (["--cpus", "2"], "--cpus goes with"),
        (["--gpus", "1"], "--gpus goes with"),
        (["--batch", "3"], "--batch goes with"),
    ],
)
def test_words_that_do_not_fit_are_refused(models, photos, tmp_path, capfd, words, message):
    out = ["--out", str(tmp_path / "out")]
    assert main(["detect", "predict", str(models.detector), str(photos), *words, *out]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_option_of_embed_is_known_to_its_tests():
    from option_walk import options_of

    workers = {"--engine", "--address", "--concurrency", "--cpus", "--gpus", "--batch"}
    run = {"--device", "--threads", "--dry-run", "--max-pixels", "--debug"}
    assert set(options_of("embed", "embed")) == workers | run | {
        "--out",
        "--boxes",
        "--max-boxes",
        "--fresh",
    }

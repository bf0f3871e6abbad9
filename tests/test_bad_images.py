"""Broken images of a run: each listed once, counted over restarts, and too many refused."""

import itertools
import logging
from pathlib import Path

import pytest

from alumnus.data import UNIC, BadImage, BadImages, Mixture, make_loader, open_source
from alumnus.data.bad_images import allowed_count
from image_files import write_folder


def bad(position: int, identity: str | None = None) -> BadImage:
    return BadImage(position, "photos", identity or f"{position}.jpg", "made so", "good.jpg")


@pytest.mark.parametrize(
    ("max_bad", "seen", "images", "allowed"),
    [
        (0.01, 10, 100_000, 32),  # the first ones stop nothing
        (0.01, 10_000, 100_000, 100),
        (0.01, 12, 12, 6),  # half of a small folder
        (0.5, 400, 1000, 200),
        (0.0, 10_000, 100_000, 0),
    ],
)
def test_a_share_of_the_images_seen_may_be_broken(
    max_bad: float, seen: int, images: int, allowed: int
) -> None:
    assert allowed_count(max_bad, seen=seen, images=images) == allowed


def test_an_image_is_listed_once_over_epochs_and_restarts(tmp_path: Path) -> None:
    path = tmp_path / "bad_images.jsonl"
    first = BadImages(path, images=100, max_bad=0.01)
    first([bad(3), bad(3, "other.jpg")])
    first([bad(103, "3.jpg")])
    path.write_text(path.read_text() + '{"position": 104, "sou')  # a kill while writing
    again = BadImages(path, images=100, max_bad=0.01)
    assert again.count == 2
    again([bad(3), bad(7)])
    assert again.count == 3
    lines = path.read_text().splitlines()
    assert [line.count('"made so"') for line in lines] == [1, 1, 1]


def test_processes_of_one_run_count_together(tmp_path: Path) -> None:
    path = tmp_path / "bad_images.jsonl"
    ranks = [BadImages(path, images=100, max_bad=0.01) for _ in range(2)]
    for i in range(32):
        ranks[i % 2]([bad(i // 2 * 2)])  # each image is met by both
    assert [rank.count for rank in ranks] == [16, 16]
    assert len(path.read_text().splitlines()) == 16
    for i in range(16):
        ranks[i % 2]([bad(1 + 2 * i)])
    with pytest.raises(ValueError, match="33 of the first 51 images"):
        ranks[1]([bad(50)])


def test_above_the_limit_the_run_stops_and_names_count_files_and_setting(tmp_path: Path) -> None:
    record = BadImages(tmp_path / "bad_images.jsonl", images=10_000, max_bad=0.01)
    record([bad(i * 10) for i in range(32)])
    with pytest.raises(ValueError, match=r"^33 of the first 401 images cannot be decoded") as told:
        record([bad(400)])
    for part in ("'0.jpg', '10.jpg', '20.jpg'", "bad_images.jsonl", "data.max_bad, which is 0.01"):
        assert part in str(told.value)
    assert len((tmp_path / "bad_images.jsonl").read_text().splitlines()) == 33


def test_the_log_speaks_at_each_doubling(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = BadImages(tmp_path / "bad_images.jsonl", images=10_000, max_bad=0.01)
    for i in range(32):
        record([bad(i)])
    said = [r.getMessage().split(" so far")[0] for r in caplog.records]
    assert said == ["1 broken image", *(f"{2**k} broken images" for k in range(1, 6))]
    assert {r.levelno for r in caplog.records} == {logging.WARNING}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_record_is_the_same_for_any_number_of_workers(tmp_path: Path, workers: int) -> None:
    source = open_source(write_folder(tmp_path / "photos", [f"{i:02d}.jpg" for i in range(20)]))
    for i in (3, 4, 11, 12, 13):
        (tmp_path / "photos" / f"{i:02d}.jpg").write_bytes(b"no image")

    def recorded(num_workers: int) -> str:
        record = BadImages(tmp_path / f"{num_workers}.jsonl", images=20, max_bad=1.0)
        batches = make_loader(
            Mixture([source]), UNIC, size=16, batch_size=3, num_workers=num_workers
        )
        for _ in itertools.islice(batches, 14):
            record(batches.bad_images)
        return record.path.read_text()

    assert recorded(0) == recorded(workers) != ""


def test_replacements_are_the_same_for_any_number_of_processes(tmp_path: Path) -> None:
    source = open_source(write_folder(tmp_path / "photos", [f"{i:02d}.jpg" for i in range(20)]))
    for i in range(0, 20, 3):
        (tmp_path / "photos" / f"{i:02d}.jpg").write_bytes(b"no image")

    def replaced(rank: int, ranks: int) -> list[BadImage]:
        batches = make_loader(
            Mixture([source]), UNIC, size=16, batch_size=4 // ranks, rank=rank, ranks=ranks
        )
        for _ in itertools.islice(batches, 8):
            pass
        return [bad for bad in batches.bad_images if bad.position < 32]

    assert sorted(replaced(0, 2) + replaced(1, 2)) == sorted(replaced(0, 1)) != []

"""Tar shards named one by one or by a pattern, on a disk or behind a URL, read by byte ranges."""

import io
import json
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from alumnus.cachedir import remote_cache_bytes
from alumnus.data import UNIC, BrokenImageError, Mixture, make_loader, open_source
from alumnus.data import remote as module
from alumnus.data.decode import decode_rgb
from alumnus.data.range_cache import RangeCache
from alumnus.data.shard_names import expand_braces
from alumnus.data.tar_source import TarSource
from image_files import encoded, picture

fsspec = pytest.importorskip("fsspec", reason="the extra cloud is not installed")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder."""
    monkeypatch.setenv("ALUMNUS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sample(number: int) -> dict[str, bytes]:
    record = {"number": number, "domain": "odd" if number % 2 else "even"}
    return {
        "jpg": encoded(picture(number)),
        "cls": str(number % 3).encode(),
        "json": json.dumps(record).encode(),
    }


def tar(samples: Mapping[str, Mapping[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for key, members in samples.items():
            for extension, content in members.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def shards(count: int = 3, *, each: int = 4) -> dict[str, bytes]:
    """Tar files by name."""
    return {
        f"train-{s:03d}.tar": tar({f"{i:06d}": sample(i) for i in range(s * each, (s + 1) * each)})
        for s in range(count)
    }


@pytest.fixture
def bucket() -> Iterator[str]:
    """A bucket in memory with three shards."""
    system = fsspec.filesystem("memory")
    for name, content in shards().items():
        system.pipe_file(f"/bucket/{name}", content)
    yield "memory://bucket"
    system.store.clear()


def local(folder: Path) -> Path:
    folder.mkdir()
    for name, content in shards().items():
        (folder / name).write_bytes(content)
    return folder


def contents(source: Any) -> list[tuple[bytes, Any]]:
    return [(s.image.tobytes(), s.fields) for s in map(source.read, range(len(source)))]


EXPECTED = [
    (
        decode_rgb(sample(i)["jpg"], source="s", identity="i").tobytes(),
        {"cls": i % 3, "json": json.loads(sample(i)["json"])},
    )
    for i in range(12)
]


class Fetches:
    """Counts the byte ranges that are asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ranges: list[tuple[int, int]] = []
        fetch = module.RemoteFiles._fetch

        def counted(files: module.RemoteFiles, url: str, offset: int, size: int) -> bytes:
            self.ranges.append((offset, size))
            return fetch(files, url, offset, size)

        monkeypatch.setattr(module.RemoteFiles, "_fetch", counted)


# Names


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{x,y}-{0..1}.tar", ["x-0.tar", "x-1.tar", "y-0.tar", "y-1.tar"]),
    ],
)
def test_braces_are_expanded_as_a_shell_does(pattern: str, names: Sequence[str]) -> None:
    assert expand_braces(pattern) == names


@pytest.mark.parametrize(
    "pattern", ["train-{000..002}.tar", "train-*.tar", "*.tar", "{train}-[0-9]*.tar"]
)
def test_local_shards_need_no_index_file(tmp_path: Path, pattern: str) -> None:
    source = open_source(f"{local(tmp_path / 'shards')}/{pattern}")
    assert contents(source) == EXPECTED
    assert source.identity(5) == "train-001.tar/000005"
    assert source.name == ("shards" if pattern == "*.tar" else "train")


def test_a_tar_of_tars_is_read_without_unpacking_as_imagenet_is_released(tmp_path: Path) -> None:
    outer = tmp_path / "ILSVRC2012_img_train.tar"
    with tarfile.open(outer, "w") as file:
        for wnid in ("n01440764", "n01443537"):
            names = [f"{wnid}_{number}" for number in range(3)]
            inner = tar({name: {"JPEG": encoded(picture(len(name)))} for name in names})
            member = tarfile.TarInfo(f"{wnid}.tar")
            member.size = len(inner)
            file.addfile(member, io.BytesIO(inner))
    source = open_source(str(outer))
    assert len(source) == 6
    assert source.identity(4) == "ILSVRC2012_img_train.tar/n01443537/n01443537_1"
    expected = decode_rgb(encoded(picture(11)), source="s", identity="i")
    assert [source.read(i).image.tobytes() for i in range(6)] == [expected.tobytes()] * 6


def test_a_sample_of_a_shard_may_be_selected(bucket: str) -> None:
    source = open_source(f"{bucket}/train-*.tar[:7]")
    assert len(source) == 7
    odd = open_source(f"{bucket}/train-*.tar", where={"domain": "odd"})
    assert contents(odd) == EXPECTED[1::2]
    assert odd.name == "train-odd"


# Behind a URL


def test_remote_shards_equal_local_ones(bucket: str, tmp_path: Path) -> None:
    here = open_source(f"{local(tmp_path / 'shards')}/*.tar")
    there = open_source(f"{bucket}/train-{{000..002}}.tar")
    assert contents(there) == contents(here) == EXPECTED
    assert [there.identity(i) for i in range(12)] == [here.identity(i) for i in range(12)]


def test_a_sample_is_one_range_and_is_fetched_once(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetches = Fetches(monkeypatch)
    source = open_source(f"{bucket}/*.tar")
    assert fetches.ranges == []
    first = source.read(7)
    assert len(fetches.ranges) == 1
    assert fetches.ranges[0][1] < 3 * sum(map(len, sample(7).values())) + 4096
    again = open_source(f"{bucket}/*.tar").read(7)
    assert again.image.tobytes() == first.image.tobytes()
    assert len(fetches.ranges) == 1


def test_the_index_is_made_once_and_again_where_the_shard_has_changed(
    bucket: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alumnus.data import tar_index

    scanned: list[str] = []
    scan = tar_index.index_tar

    def counted(location: str | Path, *, samples: int | None = None) -> Any:
        scanned.append(Path(location).name)
        return scan(location, samples=samples)

    monkeypatch.setattr(tar_index, "index_tar", counted)
    for _ in range(2):
        assert len(open_source(f"{bucket}/*.tar")) == 12
    assert sorted(scanned) == [f"train-00{i}.tar" for i in range(3)]
    fsspec.filesystem("memory").pipe_file("/bucket/train-001.tar", tar({"other": sample(99)}))
    changed = open_source(f"{bucket}/*.tar")
    assert scanned[3:] == ["train-001.tar"]
    assert changed.read(4).fields["json"]["number"] == 99
    for kept in (cache / "tar-index").iterdir():
        kept.write_text("{")
    assert len(open_source(f"{bucket}/*.tar")) == 9  # a damaged index is made again


def _read_all(source: TarSource) -> list[tuple[bytes, Any]]:
    return contents(source)


def test_several_processes_read_one_remote_source(bucket: str) -> None:
    source = open_source(f"{bucket}/*.tar")
    assert isinstance(source, TarSource)
    source.read(0)  # connected before the fork
    with get_context("fork").Pool(2) as pool:
        assert pool.map(_read_all, [source, source]) == [EXPECTED, EXPECTED]
    assert contents(pickle.loads(pickle.dumps(source))) == EXPECTED


def test_training_batches_come_from_remote_shards(bucket: str, tmp_path: Path) -> None:
    here = open_source(f"{local(tmp_path / 'shards')}/*.tar")
    there = open_source(f"{bucket}/*.tar")
    for workers in (0, 1):
        ours, theirs = (
            next(iter(make_loader(Mixture([s]), UNIC, size=16, batch_size=8, num_workers=workers)))
            for s in (there, here)
        )
        assert ours.images.equal(theirs.images)


class _Ranges(BaseHTTPRequestHandler):
    """A web server that knows byte ranges, as every object store does."""

    files: Mapping[str, bytes] = shards()

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        content = self.files.get(self.path.strip("/"))
        if content is None:
            self.send_error(404)
            return
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        first, _, last = wanted.partition("-")
        part = content[int(first or 0) : int(last or len(content)) + 1]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            place = f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"
            self.send_header("Content-Range", place)
        self.end_headers()
        if body:
            self.wfile.write(part)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a web server with three shards."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Ranges)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_shards_of_a_web_server_are_read_in_workers_too(server: str) -> None:
    pytest.importorskip("aiohttp", reason="the extra cloud is not installed")
    source = open_source(f"{server}/train-{{000..002}}.tar")
    assert contents(source) == EXPECTED
    batches = make_loader(Mixture([source]), UNIC, size=16, batch_size=4, num_workers=1)
    assert next(iter(batches)).images.shape == (4, 3, 16, 16)
    with pytest.raises(ValueError, match=r"shard '.*train-003.tar' is missing"):
        open_source(f"{server}/train-{{000..003}}.tar")


# The bounded cache


def test_the_cache_stays_below_its_limit_and_drops_what_was_used_longest_ago(
    tmp_path: Path,
) -> None:
    kept = RangeCache(tmp_path, most_bytes=10_000)
    fetched: list[str] = []

    def get(key: str) -> bytes:
        def fetch() -> bytes:
            fetched.append(key)
            return key.encode() * 50

        return kept.get(key, fetch)

    for i in range(300):
        assert get(f"{i:04d}") == f"{i:04d}".encode() * 50
        if i:
            get("0000")  # in use all the time
        for age, path in enumerate(sorted(tmp_path.glob("*/*"), key=_used)):
            os.utime(path, (age, age))  # the clock of some file systems is coarse
        size = sum(path.stat().st_size for path in tmp_path.glob("*/*"))
        assert size <= 10_000 * 1.04
    assert fetched.count("0000") == 1
    assert len(fetched) == 300


def _used(path: Path) -> float:
    return path.stat().st_mtime


def test_a_limit_of_nothing_keeps_nothing(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALUMNUS_CACHE_GB", "0")
    fetches = Fetches(monkeypatch)
    source = open_source(f"{bucket}/*.tar")
    assert contents(source) == contents(source) == EXPECTED
    assert len(fetches.ranges) == 24


def test_a_limit_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALUMNUS_CACHE_GB", "lots")
    with pytest.raises(ValueError, match="ALUMNUS_CACHE_GB is 'lots', but must be a number"):
        remote_cache_bytes()


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path) -> None:
    kept = RangeCache(tmp_path / "gone", most_bytes=10_000)
    (tmp_path / "gone").write_text("a file where the folder should be")
    assert kept.get("a", lambda: b"fetched") == b"fetched"


# Mistakes


def test_a_lost_connection_is_tried_again_and_then_a_broken_image(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(f"{bucket}/*.tar")
    monkeypatch.setattr(module, "WAITS_S", (0.0, 0.0))
    system = type(fsspec.filesystem("memory"))
    cat_file, calls = system.cat_file, []

    def flaky(self: Any, *args: Any, **options: Any) -> bytes:
        calls.append(args)
        if len(calls) < 3 or len(calls) > 3:
            raise ConnectionError("reset by peer")
        return bytes(cat_file(self, *args, **options))

    monkeypatch.setattr(system, "cat_file", flaky)
    assert source.read(0).fields["cls"] == 0
    with pytest.raises(BrokenImageError, match="could not be read: reset by peer"):
        source.read(1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("memory://bucket/train-009.tar", "'memory://bucket/train-009.tar' is missing"),
        ("memory://bucket/none-*.tar", "there are no shards 'memory://bucket/none-*.tar'"),
        ("memory://bucket", "should name tar shards and end in .tar, e.g. s3://"),
        ("memory://bucket/a.tar.gz", "is compressed, so no part can be read alone"),
        ("memroy://bucket/a.tar", "'memroy://bucket/a.tar' cannot be read"),
        ("memory://bucket/train-001.tar:train", "have no split 'train': name those of one split"),
        ("memory://bucket/a-{5..2}.tar", "the range {5..2}"),
        ("nowhere/a-{1..2}.tar", "'nowhere/a-1.tar' is missing"),
    ],
)
def test_mistakes_in_names_are_answered_in_one_sentence(
    bucket: str, spec: str, message: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        open_source(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(ValueError, match=r"Install s3fs.*pip install 'alumnus\[cloud\]'"):
        open_source("s3://bucket/a.tar")

"""Downloads from a server on this machine."""

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from photo_files import pets, write_zip
from processes import longest_file

from byol.errors import UserError
from data import download as module
from data import open_photos, sources
from data.download import download

BODY = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if server.status:
            return self.send_error(server.status)
        start, size = 0, len(server.body)
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.body)}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            start += server.shift
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        self.wfile.write(server.body[start : server.cut or size])
        if server.hang:
            self.wfile.flush()
            server.released.wait(10)

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.body = BODY
    server.asked, server.ranges, server.shift = [], True, 0
    server.status, server.cut, server.hang = None, None, False
    server.released = threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/file.zip"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "data" / "file.zip"


def part_of(target):
    return target.with_name("file.zip.part")


def test_a_good_download(server, target):
    assert download(server.url, SHA256, target, progress=False) == target
    assert target.read_bytes() == BODY
    assert [p.name for p in target.parent.iterdir()] == ["file.zip"]


def test_from_the_address_to_packed_photos(server, tmp_path, monkeypatch):
    """What `--data cats-vs-dogs` does on a fresh machine, with a small archive."""
    archive = write_zip(tmp_path / "small.zip", {**pets(30), "PetImages/Cat/666.jpg": b""})
    server.body = archive.read_bytes()
    monkeypatch.setattr(sources, "DATA_DIR", tmp_path / "data")
    monkeypatch.setattr(sources, "CATS_VS_DOGS_URL", server.url)
    monkeypatch.setattr(sources, "CATS_VS_DOGS_SHA256", hashlib.sha256(server.body).hexdigest())
    monkeypatch.setenv("BYOL_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        photos = open_photos("cats-vs-dogs", 8, progress=False)
        assert photos.classes == ["Cat", "Dog"]
        assert sorted(photos.names) == sorted(pets(30))
        assert photos.skipped == [("PetImages/Cat/666.jpg", "empty file")]
        assert len(server.asked) == 1  # the second time all of it is there


def test_progress_goes_to_stderr(server, target, capsys):
    download(server.url, SHA256, target)
    out, err = capsys.readouterr()
    assert out == ""
    assert "file.zip" in err
    assert "100%" in err


def test_a_cut_transfer_goes_on_where_it_broke_off(server, target):
    server.cut = 100_000
    with pytest.raises(UserError, match="run again to go on"):
        download(server.url, SHA256, target, progress=False)
    assert not target.exists()
    assert part_of(target).read_bytes() == BODY[:100_000]
    server.cut = None
    download(server.url, SHA256, target, progress=False)
    assert target.read_bytes() == BODY
    assert server.asked == [None, "bytes=100000-"]
    assert not part_of(target).exists()


def test_a_silent_server_times_out(server, target, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.3)
    server.cut, server.hang = 50_000, True
    with pytest.raises(UserError, match="run again to go on"):
        download(server.url, SHA256, target, progress=False)
    assert not target.exists()


def put_part(target, content):
    target.parent.mkdir()
    part_of(target).write_bytes(content)


def test_a_server_without_ranges_starts_again(server, target):
    put_part(target, b"x" * 1000)
    server.ranges = False
    download(server.url, SHA256, target, progress=False)
    assert target.read_bytes() == BODY


def test_a_server_that_sends_another_range(server, target):
    put_part(target, BODY[:1000])
    server.shift = 10
    download(server.url, SHA256, target, progress=False)
    assert target.read_bytes() == BODY


def test_all_of_it_was_there(server, target):
    put_part(target, BODY)
    download(server.url, SHA256, target, progress=False)
    assert target.read_bytes() == BODY


def test_more_than_all_was_there(server, target):
    put_part(target, BODY + b"x")
    download(server.url, SHA256, target, progress=False)
    assert target.read_bytes() == BODY


def test_the_wrong_content(server, target):
    with pytest.raises(UserError, match="not the expected file"):
        download(server.url, "0" * 64, target, progress=False)
    assert list(target.parent.iterdir()) == []


def test_a_wrong_part_is_found_by_the_hash_of_the_whole(server, target):
    put_part(target, b"x" * 1000)
    with pytest.raises(UserError, match="not the expected file"):
        download(server.url, SHA256, target, progress=False)
    assert list(target.parent.iterdir()) == []
    download(server.url, SHA256, target, progress=False)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("status", [403, 404, 500])
def test_an_error_of_the_server(server, target, status):
    server.status = status
    with pytest.raises(UserError, match=f"{status}.*by hand") as caught:
        download(server.url, SHA256, target, progress=False)
    assert str(target) in str(caught.value)


def test_no_server(target):
    with pytest.raises(UserError, match="cannot reach") as caught:
        download("http://127.0.0.1:9/file.zip", SHA256, target, progress=False)
    assert str(target) in str(caught.value)
    assert "--data cartoons" in str(caught.value)


def test_no_such_host(target):
    with pytest.raises(UserError, match=r"cannot reach|answered"):
        download("http://no-such-host.invalid/file.zip", SHA256, target, progress=False)


@pytest.mark.parametrize("size", [0, 100_000, 299_999])
def test_a_full_disk(server, target, size):
    """What came stays, and the next call goes on from there."""
    with longest_file(size), pytest.raises(UserError, match="make room") as caught:
        download(server.url, SHA256, target, progress=False)
    assert f"cannot write {part_of(target)} (File too large)" in str(caught.value)
    assert part_of(target).read_bytes() == BODY[:size]
    download(server.url, SHA256, target, progress=False)
    assert target.read_bytes() == BODY
    assert server.asked == [None, f"bytes={size}-" if size else None]


def test_a_second_download_is_refused_while_one_goes_on(server, target):
    server.cut, server.hang = 50_000, True

    def one():
        download(server.url, SHA256, target, progress=False)

    def broken_off():
        with pytest.raises(UserError, match="broke off"):
            one()

    first = threading.Thread(target=broken_off)
    first.start()
    while not server.asked:
        time.sleep(0.01)
    with pytest.raises(UserError, match="another process downloads into"):
        one()
    assert len(server.asked) == 1
    server.released.set()
    first.join()
    server.cut = None
    one()
    assert target.read_bytes() == BODY


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        download(server.url, SHA256, tmp_path / "data" / "file.zip", progress=False)

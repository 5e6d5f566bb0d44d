"""Files are whole or not there, whatever happens while they are written."""

import os
import stat
import subprocess
import sys

import pytest

from byol import files


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    files.write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_the_content_is_flushed_before_the_name_and_the_name_after_it(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    flushed = []
    fsync = os.fsync

    def seen(handle):
        about = os.fstat(handle)
        flushed.append((stat.S_ISDIR(about.st_mode), about.st_size, path.exists()))
        fsync(handle)

    monkeypatch.setattr(files.os, "fsync", seen)
    files.write_atomically(path, b"12345")
    (first_is_folder, size, renamed), (second_is_folder, _, then_renamed) = flushed
    assert (first_is_folder, size, renamed) == (False, 5, False)
    assert (second_is_folder, then_renamed) == (True, True)


def test_what_reads_back_is_every_byte(tmp_path):
    blob = bytes(range(256)) * 5000  # more than one piece
    path = tmp_path / "a"
    for other in (blob, blob[:-1], blob + b"x", blob[:-1] + b"x", b"x" + blob[1:]):
        path.write_bytes(other)
        assert files.reads_back(path, memoryview(blob)) == (other == blob)


def test_a_write_removes_what_dead_processes_left_of_this_file_alone(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stays = {
        f".a.pt.{os.getppid()}.tmp",  # that process lives
        ".a.pt.1.tmp",  # as well, and may be another user's
        f".b.pt.{dead.pid}.tmp",  # of another file
        f".aXpt.{dead.pid}.tmp",
        f"a.pt.{dead.pid}.tmp",
        f".a.pt.{dead.pid}.tmp.old",
        ".a.pt.x.tmp",
        ".a.pt.0.tmp",
        ".a.pt.99999999999999999999.tmp",  # no process id
    }
    for name in {f".a.pt.{dead.pid}.tmp", *stays}:
        (tmp_path / name).write_bytes(b"half")
    files.write_atomically(tmp_path / "a.pt", b"whole")
    assert {file.name for file in tmp_path.iterdir()} == {"a.pt", *stays}

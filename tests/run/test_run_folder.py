"""One run in a folder: what is refused, and what may change when it goes on."""

import os
import subprocess
import sys

import pytest

from byol.errors import UserError
from byol.run.folder import check_same_settings, open_run_folder


def test_only_a_setting_that_may_differ_may_be_newer_than_the_run(tmp_path):
    before = {"epochs": 3, "device": "cpu"}
    check_same_settings(before, {**before, "save_within": 9}, {"save_within"}, set(), tmp_path)
    check_same_settings(before, {**before, "device": "cuda"}, {"device"}, set(), tmp_path)
    with pytest.raises(UserError, match="earlier version, which had no tau0;"):
        check_same_settings(before, {**before, "tau0": 1, "x": 2}, {"x"}, set(), tmp_path)
    with pytest.raises(UserError, match=r"epochs was 3 and is now 4.*only --device, --new"):
        check_same_settings(
            before, {"epochs": 4, "device": "cuda"}, {"device", "new"}, set(), tmp_path
        )


def test_a_setting_that_may_change_does_not_excuse_another(tmp_path):
    before = {"epochs": 3, "batch_size": 8}
    check_same_settings(before, {**before, "epochs": 4}, set(), {"epochs"}, tmp_path)
    with pytest.raises(UserError, match=r"\(epochs was 3 and is now 2\)"):
        check_same_settings(before, {**before, "epochs": 2}, set(), set(), tmp_path)
    with pytest.raises(UserError, match=r"\(batch_size was 8 and is now 9\)"):
        check_same_settings(before, {"epochs": 4, "batch_size": 9}, set(), {"epochs"}, tmp_path)


@pytest.mark.parametrize("name", ["last.pt", "previous.pt"])
def test_either_state_is_a_run(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="holds a run already"):
        open_run_folder(tmp_path, resume=False, overwrite=False)
    for resume in (True, False):
        run_dir, lock = open_run_folder(tmp_path, resume=resume, overwrite=not resume)
        assert run_dir == tmp_path
        lock.close()


HOLDER = """
import sys, time
from byol.run.folder import open_run_folder
folder, lock = open_run_folder(sys.argv[1], resume=False, overwrite=False)
print("locked", flush=True)
time.sleep(600)
"""


def test_a_second_process_is_refused_until_the_first_is_dead(root, tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, cwd=root
    )
    try:
        assert holder.stdout.readline() == b"locked\n"
        (tmp_path / ".last.pt.1.tmp").write_bytes(b"half")
        before = {path.name: path.stat() for path in tmp_path.iterdir()}
        for overwrite in (False, True):
            with pytest.raises(UserError, match=f"in use by process {holder.pid}:"):
                open_run_folder(tmp_path, resume=False, overwrite=overwrite)
        after = {path.name: path.stat() for path in tmp_path.iterdir()}
        assert before.keys() == after.keys() == {"run.lock", ".last.pt.1.tmp"}
        for name, was in before.items():
            assert (was.st_size, was.st_mtime_ns) == (after[name].st_size, after[name].st_mtime_ns)
    finally:
        holder.kill()
        holder.communicate()
    _, lock = open_run_folder(tmp_path, resume=False, overwrite=False)
    assert (tmp_path / "run.lock").read_text() == f"{os.getpid()}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]  # nothing half-written
    lock.close()

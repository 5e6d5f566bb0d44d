"""One run in a folder: what is refused, and what may change when it goes on."""

import pytest

from byol.errors import UserError
from byol.run_folder import check_same_settings, open_run_folder


def test_only_a_setting_that_may_differ_may_be_newer_than_the_run(tmp_path):
    before = {"epochs": 3, "device": "cpu"}
    check_same_settings(before, {**before, "save_within": 9}, {"save_within"}, tmp_path)
    check_same_settings(before, {**before, "device": "cuda"}, {"device"}, tmp_path)
    with pytest.raises(UserError, match="earlier version, which had no tau0;"):
        check_same_settings(before, {**before, "tau0": 1, "x": 2}, {"x"}, tmp_path)
    with pytest.raises(UserError, match="epochs was 3 and is now 4"):
        check_same_settings(before, {"epochs": 4, "device": "cuda"}, {"device"}, tmp_path)


@pytest.mark.parametrize("name", ["last.pt", "previous.pt"])
def test_either_state_is_a_run(tmp_path, name):
    with pytest.raises(UserError, match="--resume: there is no"):
        open_run_folder(tmp_path, resume=True, overwrite=False)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="holds a run already"):
        open_run_folder(tmp_path, resume=False, overwrite=False)
    assert open_run_folder(tmp_path, resume=True, overwrite=False) == tmp_path
    assert open_run_folder(tmp_path, resume=False, overwrite=True) == tmp_path

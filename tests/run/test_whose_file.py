"""Whose encoder is it, and which run goes on: known by what was written, never by a name."""

import shutil
from pathlib import Path

import pytest
import torch
from photo_files import cartoon_folder
from refusals import fails

import train_byol
import train_classifier
from byol.errors import UserError
from byol.run import checkpoint

TINY = ["--labels", "8", "--image-size", "32", "--store-size", "32", "--hidden-dim", "16",
        "--projection-dim", "8", "--losses", "classic", "--batch-size", "8", "--epochs", "1",
        "--recipe", "cartoons", "--amp", "off", "--device", "cpu",
        "--health-every", "0"]  # fmt: skip


def write_encoder(run: str, path: str = "byol.pt") -> None:
    """An encoder's file of the run with this name."""
    keys = ("encoder", "arch", "stem", "image_size", "mean", "std", "data_fingerprint")
    settings = ("data", "store_size", "labels", "holdout", "split_seed", "epochs")
    content = {**dict.fromkeys(keys, 1), "config": dict.fromkeys(settings, 1), "run": run}
    checkpoint.save(path, checkpoint.ENCODER, content)


def test_an_encoder_of_another_run_is_told_at_the_start(tiny):
    tiny().train()
    write_encoder("another")
    with pytest.raises(UserError, match=r"--out: byol\.pt is there already, .* another --out"):
        tiny(resume=True)
    assert tiny(resume=True, out="mine.pt").train().schedule.total_steps == 6


def test_an_encoder_of_this_run_may_be_written_again(tiny):
    write_encoder(tiny().train().run.name)
    training = tiny(resume=True).train()
    assert training.run.free_out("byol.pt") == "byol.pt"


def test_an_encoder_that_another_run_wrote_meanwhile_is_kept(tiny, capsys):
    training = tiny().train()
    write_encoder("another")
    name = training.run.free_out("byol.pt")
    assert name == f"byol-{training.run.name}.pt"
    assert "another run has written byol.pt meanwhile" in capsys.readouterr().err


@pytest.mark.parametrize(("meanwhile", "replaced"), [(False, True), (True, False)])
def test_overwrite_replaces_what_was_there_at_the_start_and_nothing_later(
    tiny, meanwhile, replaced
):
    write_encoder("before")
    training = tiny(overwrite=True).train()
    if meanwhile:
        write_encoder("another")
    assert (training.run.free_out("byol.pt") == "byol.pt") == replaced


def test_a_file_that_is_no_encoder_is_not_replaced(tiny):
    Path("byol.pt").write_text("my diary")
    with pytest.raises(UserError, match="is there already"):
        tiny()


def test_resume_begins_anew_if_there_is_nothing(tiny, capsys):
    training = tiny(resume=True).train()
    assert "nothing to resume in runs/byol: a new run" in capsys.readouterr().err
    assert (training.run.folder / "last.pt").is_file()


def test_epochs_may_be_lowered_to_what_is_done_and_no_further(tiny, capsys):
    training = tiny(epochs=4)
    training.then[7] = lambda: setattr(training.run.interrupt, "asked", True)  # of twelve steps
    with pytest.raises(KeyboardInterrupt):
        training.train()
    with pytest.raises(UserError, match=r"has done 8 steps, .*give --epochs 3 or more"):
        tiny(epochs=2, flags=["epochs"], resume=True).train()
    done = tiny(epochs=3, flags=["epochs"], resume=True).train()
    assert checkpoint.load_state(done.run.folder)["step"] == 9
    assert "--epochs was 4 and is now 3" in capsys.readouterr().err


def test_a_folder_may_be_spelt_otherwise_when_a_run_goes_on(in_tmp, narrow_encoder, photos, capsys):
    shutil.copytree(photos, "photos")
    flags = [*TINY, "--save-every", "0"]
    assert train_byol.main(["--data", "photos", *flags]) == 0
    Path("photos").rename("moved")
    assert train_byol.main(["--data", f"{in_tmp}/moved/", *flags, "--resume"]) == 0


def test_a_classifier_takes_the_split_of_the_photos_wherever_they_are(
    in_tmp, narrow_encoder, capsys
):
    """Else it would learn from the photos that pretraining held out, and be tested on others."""
    cartoon_folder(in_tmp / "photos", train=44, test=0)
    data = in_tmp / "photos" / "train"
    holdout = ["--data", str(data), "--holdout", "10", *TINY]
    assert train_byol.main([*holdout]) == 0
    before = json_of("runs/byol/split.json")
    data.rename(in_tmp / "moved")
    capsys.readouterr()
    flags = ["--init", "byol.pt", "--freeze", "--epochs", "1", "--amp", "off", "--device", "cpu",
             "--folds", "0"]  # fmt: skip
    assert train_classifier.main([*flags, "--data", f"{in_tmp}/moved/"]) == 0
    assert "on 10 images (holdout)" in capsys.readouterr().out
    after = json_of("runs/classifier-byol-frozen/split.json")
    assert (after["holdout"], after["labelled"]) == (before["holdout"], before["labelled"])


def test_the_encoder_of_a_run_that_is_not_finished_can_be_tried(
    in_tmp, narrow_encoder, photos, capsys
):
    assert train_byol.main(["--data", str(photos), *TINY]) == 0
    flags = ["--freeze", "--epochs", "1", "--amp", "off", "--device", "cpu", "--folds", "0"]
    assert train_classifier.main(["--init", "runs/byol/last.pt", *flags]) == 0
    assert "last.pt is of a run that is not finished (step 3)" in capsys.readouterr().err
    finished, state = (checkpoint.load_pretrained(p) for p in ("byol.pt", "runs/byol/last.pt"))
    for name, value in finished["encoder"].items():
        assert torch.equal(value, state["encoder"][name])


def test_a_state_of_a_classifier_is_no_encoder(in_tmp, capsys):
    content = {"model": {}, "optimizer": {}, "scaler": {}, "step": 1, "config": {"init": "random"},
               "data_fingerprint": "0"}  # fmt: skip
    checkpoint.save_state(Path(), content)
    fails(capsys, train_classifier.main(["--init", "last.pt"]), "last.pt is a state of training")


def json_of(path: str) -> dict:
    import json

    return json.loads(Path(path).read_text())

"""Settings: defaults, then a file, then flags; and one sentence for each way to get them wrong."""

import dataclasses
import itertools
import re

import pytest

from byol.command_line import CONFIGS, parse
from byol.config import BELONGING, GONE, GROUPS, RENAMED, ClassifierConfig, PretrainConfig
from byol.errors import UserError
from byol.optim import DEFAULTS as OPTIMIZERS

FILES = sorted(CONFIGS.glob("*.toml"))
BOTH = pytest.mark.parametrize("config_class", [PretrainConfig, ClassifierConfig])


@pytest.fixture
def read(tmp_path):
    """Read a file with the given text, then flags: the config."""

    def config(text: str, *argv: str, config_class=PretrainConfig):
        path = tmp_path / "c.toml"
        path.write_text(text)
        return parse(config_class, ["--config", str(path), *argv])[0]

    return config


def refused(*argv: str, config_class=PretrainConfig) -> str:
    with pytest.raises(UserError) as error:
        parse(config_class, argv)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- layers


@BOTH
def test_without_flags_the_settings_are_those_of_the_class(config_class):
    assert parse(config_class, []) == (config_class(), set())


def test_defaults_then_file_then_flags(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(
        "image_size = 64\n[pretrain]\nepochs = 7\nlr = 1\n[classifier]\nepochs = 9\nlabel_seed = 3"
    )
    argv = ["--config", str(path), "--epochs", "3", "--tau0", "0.5"]
    config, flags = parse(PretrainConfig, argv)
    assert (config.image_size, config.epochs, config.lr, config.tau0) == (64, 3, 1.0, 0.5)
    assert config.batch_size == 256
    assert flags == {"epochs", "tau0"}
    config, flags = parse(ClassifierConfig, argv[:2])
    assert (config.image_size, config.epochs, config.label_seed, flags) == (64, 9, 3, set())


def test_a_plain_command_is_the_users_case():
    config = PretrainConfig()
    assert (config.data, config.image_size, config.stored_side) == ("cats-vs-dogs", 150, 180)
    assert (config.batch_size, config.arch, config.labels, config.out) == (
        256, "resnet18", 250, "byol.pt"
    )  # fmt: skip
    assert (config.view_side, config.recipe, config.solarize) == (96, "short", 0.0)
    assert (config.losses, config.trained_blocks) == ("multi", {"layer3.0": 2, "layer2.0": 4})
    assert (config.optimizer, config.base_lr, config.decay) == ("sgd", 0.06, 0.002)
    assert (config.epochs, config.tau0, config.hidden_dim) == (240, 0.97, 1024)
    assert ClassifierConfig(init="byol.pt").encoder_scale == 0.1


def test_the_stored_side_is_a_little_above_the_image_size():
    for size, side in ((150, 180), (64, 80), (32, 40), (224, 272)):
        assert PretrainConfig(image_size=size).stored_side == side
    assert PretrainConfig(image_size=32, store_size=32).stored_side == 32


# ---- what belongs to a choice


def test_the_rate_of_a_file_is_for_the_optimizer_of_the_file(read):
    text = "[pretrain]\noptimizer = 'adamw'\nlr = 0.5\nweight_decay = 0.25"

    def rate_and_decay(*argv, text=text):
        config = read(text, *argv)
        return config.base_lr, config.decay

    assert rate_and_decay() == rate_and_decay("--optimizer", "adamw") == (0.5, 0.25)
    assert rate_and_decay("--optimizer", "lars") == OPTIMIZERS["lars"]
    assert rate_and_decay("--lr", "3", "--optimizer", "lars") == (3.0, OPTIMIZERS["lars"][1])
    bare = "[pretrain]\nlr = 0.5"  # of the default optimizer, then
    assert rate_and_decay("--optimizer", "adamw", text=bare) == OPTIMIZERS["adamw"]
    assert rate_and_decay("--optimizer", "sgd", text=bare) == (0.5, OPTIMIZERS["sgd"][1])


def test_the_rate_of_a_classifier_falls_back_to_its_default(read):
    text = "[classifier]\noptimizer = 'sgd'\nlr = 0.5\nweight_decay = 0.25"

    def rate_and_decay(*argv):
        config = read(text, *argv, config_class=ClassifierConfig)
        return config.peak_lr, config.decay

    assert rate_and_decay() == rate_and_decay("--optimizer", "sgd") == (0.5, 0.25)
    assert rate_and_decay("--optimizer", "adamw") == (1e-3, 1e-2)
    assert rate_and_decay("--optimizer", "adamw", "--lr", "2") == (2.0, 1e-2)


def test_another_recipe_than_the_files_is_taken_as_it_is(read):
    text = '[pretrain]\nrecipe = "small"\nsolarize = 0.1\ncrop_min = 0.3\njitter_strength = 2'

    def changes(*argv, text=text):
        config = read(text, *argv)
        return config.crop_min, config.jitter_strength, config.solarize

    assert changes() == changes("--recipe", "small") == (0.3, 2.0, 0.1)
    assert changes("--recipe", "photos") == (None, 1.0, None)
    assert changes("--recipe", "photos", "--solarize", "0.2") == (None, 1.0, 0.2)
    # the default recipe is without solarizing; another brings its own, the same changes nothing
    assert changes(text="") == changes("--recipe", "short", text="") == (None, 1.0, 0.0)
    assert changes(text='[pretrain]\nrecipe = "cartoons"') == (None, 1.0, None)


def test_the_view_size_is_for_its_image_size(read):
    def sizes(*argv, text=""):
        config = read(text, *argv)
        return config.image_size, config.view_size, config.view_side

    assert sizes() == sizes("--image-size", "150") == (150, 96, 96)
    assert sizes("--image-size", "224") == (224, None, 224)
    assert sizes("--image-size", "64", "--view-size", "72") == (64, 72, 72)
    assert sizes("--view-size", "150") == (150, 150, 150)
    of_file = "image_size = 64\n[pretrain]\nview_size = 32"
    assert sizes(text="image_size = 64") == (64, None, 64)
    assert sizes(text=of_file) == sizes("--image-size", "64", text=of_file) == (64, 32, 32)
    assert sizes("--image-size", "80", text=of_file) == (80, None, 80)
    argv = ("--store-size", "64", "--image-size", "64", "--view-size", "96")
    assert "view_size 96 is above" in refused(*argv)


def test_what_belongs_to_a_choice_is_reset_to_the_neutral_value():
    others = {"optimizer": "lars", "image_size": "64", "recipe": "photos", "data": "photos"}
    for choice, belonging in BELONGING.items():
        config, _ = parse(PretrainConfig, ["--" + choice.replace("_", "-"), others[choice]])
        neutral = belonging | ({"labels": None} if choice == "data" else {})
        assert {key: getattr(config, key) for key in belonging} == neutral


@BOTH
def test_of_other_photos_than_the_default_ones_all_labels_are_used(config_class, read):
    def labels(*argv, text=""):
        return read(text, *argv, config_class=config_class).labels

    assert labels() == labels("--data", "cats-vs-dogs") == 250
    assert labels("--data", "photos") is None
    assert labels("--data", "photos", "--labels", "7") == 7
    both = "data = 'photos'\nlabels = 7"
    assert labels(text=both) == labels("--data", "photos", text=both) == 7
    assert labels("--data", "others", text=both) is None
    assert labels("--data", "cats-vs-dogs", text=both) == 250


@BOTH
def test_two_settings_that_say_which_photos_are_labelled_are_refused(config_class, read):
    said = {"labelled": "a", "labels_file": "b", "label_pattern": "c", "classes_at": "1"}
    for one, other in itertools.combinations(said, 2):
        argv = ["--data", "d"]
        for key in (one, other):
            argv += ["--" + key.replace("_", "-"), said[key]]
        if {one, other} == {"labelled", "classes_at"}:
            assert parse(config_class, argv)[0].reading["labelled"] == "a"
        else:
            assert "exclude each other" in refused(*argv, config_class=config_class)


def test_labelled_photos_need_others_beside_them():
    assert "add that" in refused("--labelled", "sorted")
    assert "add that" in refused("--labelled", "sorted", config_class=ClassifierConfig)
    parse(ClassifierConfig, ["--labelled", "sorted", "--init", "byol.pt"])  # which has its --data


# ---- the files that come along


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_of_the_project_is_valid_and_holds_differences_alone(path, tmp_path):
    """For both scripts. Without any one of its lines the settings are others, or do not fit."""

    def settings(path) -> list:
        try:
            return [parse(c, ["--config", str(path)]) for c in (PretrainConfig, ClassifierConfig)]
        except UserError as error:
            return [str(error)]

    whole = settings(path)
    assert len(whole) == 2, whole
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\w+ =", line):
            (tmp_path / "less.toml").write_text("\n".join(lines[:number] + lines[number + 1 :]))
            assert settings(tmp_path / "less.toml") != whole, line


def test_the_papers_settings_are_those_of_the_paper():
    """At batch 256: the authors' preset for 300 epochs, views and networks of appendix B and C."""
    config, _ = parse(PretrainConfig, ["--config", str(CONFIGS / "paper.toml")])
    assert (config.epochs, config.warmup_epochs, config.tau0) == (300, 10, 0.99)
    assert (config.optimizer, config.base_lr, config.decay) == ("lars", 2.0, 1e-6)
    assert (config.batch_size, config.hidden_dim, config.projection_dim) == (256, 4096, 256)
    assert (config.recipe, config.view_side, config.trained_blocks) == ("photos", 150, {})
    changes = config.crop_min, config.jitter_strength, config.grayscale, config.solarize
    assert changes == (None, 1.0, None, None)


# ---- help


@BOTH
def test_the_help_has_groups_with_a_line_each_and_every_setting_in_its_group(config_class, capsys):
    with pytest.raises(SystemExit):
        parse(config_class, ["--help-all"], "What it does.")
    text = capsys.readouterr().out
    assert "What it does." in text
    starts = {group: text.index(f"\n{group}:\n  {about}\n") for group, about in GROUPS.items()}
    assert list(starts) == ["data", "views", "method", "schedule", "hardware", "saving"]
    assert list(starts.values()) == sorted(starts.values())
    ends = dict(zip(starts, [*list(starts.values())[1:], len(text)], strict=True))
    for field in dataclasses.fields(config_class):
        group = field.metadata["group"]
        section = text[starts[group] : ends[group]]
        assert field.metadata["help"], field.name
        assert f"\n  --{field.name.replace('_', '-')}" in section, field.name
    groups = {field.name: field.metadata["group"] for field in dataclasses.fields(config_class)}
    about = {"labels": "data", "image_size": "views", "arch": "method", "epochs": "schedule"}
    about |= {"device": "hardware", "run_dir": "saving", "resume": "saving", "lr": "schedule"}
    assert about.items() <= groups.items()


@BOTH
def test_the_help_shows_defaults_that_are_true(config_class, capsys, monkeypatch):
    """In brackets the value of the class; in words, if it follows from other settings."""
    monkeypatch.setenv("COLUMNS", "300")  # a line for each
    with pytest.raises(SystemExit):
        parse(config_class, ["--help-all"])
    text = capsys.readouterr().out
    for field in dataclasses.fields(config_class):
        flag = "--" + field.name.replace("_", "-")
        entry = re.search(rf"^  {flag}[ ,].*(\n {{20,}}.*)?", text, re.MULTILINE)[0]
        default = getattr(config_class(), field.name)
        if default is None:
            assert "default: " in entry, entry
        elif isinstance(default, bool):
            assert ("[True]" in entry) == default, entry
        else:
            shown = default if isinstance(default, list) else [default]
            assert entry.endswith(f"[{' '.join(map(str, shown))}]"), entry
    if config_class is PretrainConfig:
        for which in (0, 1):  # rates, then weight decays
            pairs = ", ".join(f"{name} {pair[which]:g}" for name, pair in OPTIMIZERS.items())
            assert f"(default: {pairs})" in text


# ---- faults


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image_sise = 3", ["image_sise", "did you mean image_size"]),
        ("[pretrain]\nepoch = 3", ["[pretrain]", "epoch", "did you mean epochs"]),
        ("[classifier]\ntau0 = 0.5", ["[classifier]", "tau0"]),
        ("[pretrian]\nepochs = 3", ["pretrian", "pretrain"]),
        ("image_size = 'big'", ["image_size", "whole number", "'big'"]),
        ("image_size = 3.5", ["image_size", "whole number"]),
        ("image_size = true", ["image_size", "whole number"]),
        ("mean = 3", ["mean", "list"]),
        ("mean = [1.0, 2.0]", ["mean", "three"]),
        ("std = [0.0, 1.0, 1.0]", ["std", "above 0"]),
        ("image_size = 4", ["image_size", "at least 8"]),
        ("store_size = 64", ["store_size 64", "image_size 150"]),
        ("[pretrain]\noptimizer = 'adam'", ["optimizer", "adamw"]),
        ("[pretrain]\ntau0 = 1.5", ["tau0", "at most 1"]),
        ("[pretrain]\nlr = nan", ["lr", "nan"]),
        ("= 3", ["TOML"]),
    ],
)
def test_bad_files_are_named(tmp_path, text, words):
    path = tmp_path / "c.toml"
    path.write_text(text)
    told = refused("--config", str(path))
    for word in words:
        assert word in told


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--epoch", "3"], ["--epoch", "did you mean --epochs"]),
        (["--batch-size", "many"], ["--batch-size", "whole number", "'many'"]),
        (["--batch-size", "1"], ["batch_size", "at least 2"]),
        (["--lr", "fast"], ["--lr", "number"]),
        (["--config", "nowhere.toml"], ["nowhere.toml", "cats_vs_dogs_64", "paper"]),
        (["--epochs"], ["--epochs"]),
    ],
)
def test_bad_flags_are_named(argv, words):
    told = refused(*argv)
    for word in words:
        assert word in told


@BOTH
def test_names_of_earlier_versions_are_told(config_class, tmp_path):
    """What a setting is called now, or that it is gone; as a flag and in both parts of a file."""
    assert {"taps", "tap_grid", "features", "first_size"} <= RENAMED.keys()
    assert {"compile", "first_epochs"} <= set(GONE)
    told = {old: f"it is now {new}" for old, new in RENAMED.items()}
    told |= dict.fromkeys(GONE, "it is gone: leave it out")
    path = tmp_path / "old.toml"
    for old, sentence in told.items():
        flag = "--" + old.replace("_", "-")
        of_flag = re.sub("now .*", lambda m: "now --" + m[0][4:].replace("_", "-"), sentence)
        assert refused(flag, "1", config_class=config_class) == (
            f"there is no option {flag}; {of_flag}"
        )
        assert of_flag in refused(f"{flag}=1", config_class=config_class)
        path.write_text(f"{old} = 1")
        sentences = [refused("--config", str(path), config_class=config_class)]
        path.write_text(f"[{config_class.section}]\n{old} = 1")
        sentences.append(refused("--config", str(path), config_class=config_class))
        for text in sentences:
            assert text.endswith(f"{old!r} at the top; {sentence}") or (
                text.endswith(f"[{config_class.section}] has no key {old!r}; {sentence}")
            )
    assert refused("--taps", "layer2.0") == "there is no option --taps; it is now --inner-blocks"


@BOTH
def test_no_setting_has_a_name_of_an_earlier_version(config_class):
    names = {field.name for field in dataclasses.fields(config_class)}
    assert not names & (RENAMED.keys() | set(GONE))
    every = {f.name for c in (PretrainConfig, ClassifierConfig) for f in dataclasses.fields(c)}
    assert set(RENAMED.values()) <= every


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    """As Windows' editors write it."""
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xef\xbb\xbf" + b"image_size = 48\n")
    assert parse(PretrainConfig, ["--config", str(path)])[0].image_size == 48

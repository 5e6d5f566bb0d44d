"""Settings: precedence, and one clear sentence for each way to get them wrong."""

import dataclasses

import pytest

from byol.config import CONFIGS, ClassifierConfig, PretrainConfig, parse
from byol.errors import UserError
from byol.optim import DEFAULTS


def read(tmp_path, text, argv=(), config_class=PretrainConfig):
    path = tmp_path / "c.toml"
    path.write_text(text)
    return parse(config_class, ["--config", str(path), *argv], "cats_vs_dogs.toml")


def test_defaults_then_file_then_flags(tmp_path):
    text = "image_size = 64\n[pretrain]\nepochs = 7\nlr = 1\n[classifier]\nepochs = 9"
    config, flags = read(tmp_path, text, ["--epochs", "3", "--tau0", "0.5"])
    assert (config.image_size, config.epochs, config.lr, config.tau0) == (64, 3, 1.0, 0.5)
    assert config.batch_size == 256
    assert flags == {"epochs", "tau0"}
    config, _ = read(tmp_path, text, config_class=ClassifierConfig)
    assert config.epochs == 9


def test_the_rate_of_a_file_is_for_the_optimizer_of_the_file(tmp_path):
    text = "[pretrain]\noptimizer = 'sgd'\nlr = 0.5\nweight_decay = 0.25"

    def rate_and_decay(*argv, text=text):
        config, _ = read(tmp_path, text, argv)
        return config.base_lr, config.decay

    assert rate_and_decay() == rate_and_decay("--optimizer", "sgd") == (0.5, 0.25)
    assert rate_and_decay("--optimizer", "lars") == DEFAULTS["lars"]
    assert rate_and_decay("--lr", "3", "--optimizer", "lars") == (3.0, DEFAULTS["lars"][1])
    bare = "[pretrain]\nlr = 0.5"  # of the default optimizer, then
    assert rate_and_decay("--optimizer", "adamw", text=bare) == DEFAULTS["adamw"]
    assert rate_and_decay("--optimizer", "sgd", text=bare) == (0.5, DEFAULTS["sgd"][1])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda p: p.stem)
@pytest.mark.parametrize("config_class", [PretrainConfig, ClassifierConfig])
def test_every_config_file_is_valid(path, config_class):
    parse(config_class, ["--config", str(path)], "cats_vs_dogs.toml")


def test_defaults_are_the_users_case():
    config, _ = parse(PretrainConfig, [], "cats_vs_dogs.toml")
    assert (config.data, config.image_size, config.stored_side) == ("cats-vs-dogs", 150, 180)
    assert (config.batch_size, config.arch, config.labels, config.out) == (
        256, "resnet18", 250, "byol.pt"
    )  # fmt: skip
    larger, _ = parse(PretrainConfig, ["--image-size", "224"], "cats_vs_dogs.toml")
    assert larger.stored_side == 272


def test_another_recipe_than_the_files_is_taken_as_it_is(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('[pretrain]\nrecipe = "short"\nsolarize = 0.0\ncrop_min = 0.3')

    def changes(*argv):
        config, _ = parse(PretrainConfig, ["--config", str(path), *argv], "cats_vs_dogs.toml")
        return config.crop_min, config.solarize

    assert changes() == changes("--recipe", "short") == (0.3, 0.0)
    assert changes("--recipe", "photos") == (None, None)
    assert changes("--recipe", "photos", "--solarize", "0.1") == (None, 0.1)


def test_the_view_size_of_a_file_is_for_its_image_size():
    def sizes(*argv):
        config, _ = parse(PretrainConfig, argv, "cats_vs_dogs.toml")
        return config.image_size, config.view_size

    assert sizes() == (150, 96)
    assert sizes("--image-size", "150") == (150, 96)
    assert sizes("--image-size", "224") == (224, None)
    assert sizes("--image-size", "64") == (64, None)
    assert sizes("--image-size", "64", "--view-size", "72") == (64, 72)
    assert sizes("--view-size", "150") == (150, 150)
    with pytest.raises(UserError, match="view_size 96 is above"):
        sizes("--store-size", "64", "--image-size", "64", "--view-size", "96")


def test_stored_side_is_a_little_above_the_input():
    for size, side in ((150, 180), (64, 80), (32, 40), (224, 272)):
        assert PretrainConfig(image_size=size).stored_side == side
    assert PretrainConfig(image_size=32, store_size=32).stored_side == 32


def test_every_field_has_a_help_line_and_a_flag(capsys):
    for config_class in (PretrainConfig, ClassifierConfig):
        with pytest.raises(SystemExit):
            parse(config_class, ["--help"], "cats_vs_dogs.toml")
        text = capsys.readouterr().out
        for field in dataclasses.fields(config_class):
            assert field.metadata["help"]
            assert "--" + field.name.replace("_", "-") in text


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
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--epoch", "3"], ["--epoch", "did you mean --epochs"]),
        (["--batch-size", "many"], ["--batch-size", "whole number", "'many'"]),
        (["--batch-size", "1"], ["batch_size", "at least 2"]),
        (["--lr", "fast"], ["--lr", "number"]),
        (["--config", "nowhere.toml"], ["nowhere.toml", "cats_vs_dogs"]),
        (["--epochs"], ["--epochs"]),
    ],
)
def test_bad_flags_are_named(argv, words):
    with pytest.raises(UserError) as error:
        parse(PretrainConfig, argv, "cats_vs_dogs.toml")
    for word in words:
        assert word in str(error.value)

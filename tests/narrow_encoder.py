"""A ResNet an eighth as wide, for tests of what goes on around a network: it costs a tenth."""

import torch
from PIL import Image

from byol.config import PretrainConfig
from byol.encoder import Encoder
from byol.run.checkpoint import save_encoder
from data import open_photos

BUILD, LAYER = Encoder.__init__, Encoder._make_layer


def narrow(patch) -> None:
    """Make each `Encoder` narrow: layers of 8, 16, 32 and 64 channels. patch: a `MonkeyPatch`."""

    def build(self, *args) -> None:
        BUILD(self, *args)
        self.dim //= 8

    def layer(self, block, planes, *args, **options):
        return LAYER(self, block, planes // 8, *args, **options)

    patch.setattr(Encoder, "__init__", build)
    patch.setattr(Encoder, "_make_layer", layer)


def evaluate_fast(patch) -> None:
    """Let `evaluate.py` try two L2 strengths on two folds, fitted fast, and draw no pictures."""
    patch.setattr("byol.evaluation.linear_and_knn.FOLDS", 2)
    patch.setattr("byol.report.label_curve.draw", lambda content: content)
    patch.setattr("byol.report.label_curve.save_picture", _save_nothing)
    patch.setattr("byol.evaluation.linear_and_knn.STRENGTHS", [1e4, 1e2])
    patch.setattr("byol.report.table_files.draw_table", lambda cells: cells)
    patch.setattr("byol.report.table_files.save_picture", _save_nothing)


def _save_nothing(_, path) -> None:
    Image.new("RGB", (9, 9)).save(path, "png")


def write_encoder(path, photos, **settings) -> str:
    """Write a file as `train_byol.py` does after one epoch on `photos`, but of random weights."""
    tiny = {"image_size": 32, "store_size": 32, "view_size": None, "labels": 8, "epochs": 1}
    config = PretrainConfig(**{"data": str(photos), **tiny, **settings})
    torch.manual_seed(config.seed)
    fingerprint = open_photos(config.data, config.stored_side).fingerprint
    save_encoder(path, Encoder(), config, 3, fingerprint)
    return str(path)

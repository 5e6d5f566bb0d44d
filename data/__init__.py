"""Photos from a folder, an archive or a known data set, packed once and split reproducibly."""

from data.pack import Photos, open_photos
from data.splits import Split, make_split, stratified_folds

__all__ = ["Photos", "Split", "make_split", "open_photos", "stratified_folds"]

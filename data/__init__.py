"""Photos from a folder, an archive or a known data set, packed once and split reproducibly."""

from data.opening import open_again, open_photos
from data.photos import Photos
from data.splits import Split, make_split, stratified_folds

__all__ = ["Photos", "Split", "make_split", "open_again", "open_photos", "stratified_folds"]

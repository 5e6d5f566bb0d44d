"""Classes and test splits of the archives that people use, as their trees are published.

Each tree has a few files of each folder. What is wanted was written down by hand, from what the
publishers say of their folders.
"""

import unicodedata

import pytest
from photo_files import png, pngs, write_folder, write_tar, write_zip

from byol.errors import UserError
from data import open_photos
from data.classes import classify

pytestmark = pytest.mark.usefixtures("cache")


def tree(*folders: str, files: tuple[str, ...] = ("1.jpg", "2.jpg")) -> list[str]:
    """Names of two files in each folder; braces hold alternatives, such as a/{b,c}."""
    names = []
    for folder in folders:
        before, brace, rest = folder.partition("{")
        if brace:
            choices, _, after = rest.partition("}")
            names += tree(*(before + choice + after for choice in choices.split(",")), files=files)
        else:
            names += [f"{folder}/{file}" for file in files]
    return names


def found(names: list[str], classes_at: int | None = None):
    """The layout as {folder: (class or None, whether it is for the test)}, and the notes."""
    layout = classify(names, classes_at)
    seen = {}
    for name, label, test in zip(names, layout.labels, layout.is_test, strict=True):
        which = layout.classes[label] if label >= 0 else None
        assert seen.setdefault(name.rpartition("/")[0], (which, bool(test))) == (which, bool(test))
    return seen, layout.notes


ARCHIVES = {
    # name: (tree, {folder pattern: (class, test)}, a word of each sentence that is told)
    "ImageFolder": (
        tree("{train,val}/{ants,bees}"),
        {"{train}/{ants,bees}": False, "{val}/{ants,bees}": True},
        [],
    ),
    "Cats-vs-Dogs": (tree("PetImages/{Cat,Dog}"), {"PetImages/{Cat,Dog}": False}, []),
    "chest X-ray, doubled": (
        tree(
            "chest_xray/{train,test,val}/{NORMAL,PNEUMONIA}",
            "chest_xray/chest_xray/{train,test,val}/{NORMAL,PNEUMONIA}",
        ),
        {
            "{chest_xray,chest_xray/chest_xray}/train/{NORMAL,PNEUMONIA}": False,
            "{chest_xray,chest_xray/chest_xray}/{test,val}/{NORMAL,PNEUMONIA}": True,
        },
        [],
    ),
    "malaria cells, doubled": (
        tree(
            "cell_images/{Parasitized,Uninfected}",
            "cell_images/cell_images/{Parasitized,Uninfected}",
        ),
        {
            "cell_images/{Parasitized,Uninfected}": False,
            "cell_images/cell_images/{Parasitized,Uninfected}": False,
        },
        [],
    ),
    "flowers, doubled": (
        tree("flowers/{daisy,rose,tulip}", "flowers/flowers/{daisy,rose,tulip}"),
        {"flowers/{daisy,rose,tulip}": False, "flowers/flowers/{daisy,rose,tulip}": False},
        [],
    ),
    "Tiny ImageNet": (
        [
            *tree("tiny-imagenet-200/train/{n01443537,n01629819}/images", files=("n_0.JPEG",)),
            *tree("tiny-imagenet-200/{val,test}/images", files=("val_0.JPEG", "val_1.JPEG")),
        ],
        {
            "tiny-imagenet-200/train/{n01443537,n01629819}/images": False,
            "tiny-imagenet-200/{val,test}/images": (None, True),
        },
        ["in no class folder"],
    ),
    "Intel scenes": (
        tree(
            "{seg_train/seg_train,seg_test/seg_test}/{buildings,forest,sea}", "seg_pred/seg_pred"
        ),
        {
            "seg_train/seg_train/{buildings,forest,sea}": False,
            "seg_test/seg_test/{buildings,forest,sea}": True,
            "seg_pred/seg_pred": (None, False),
        },
        [],
    ),
    "hurricane damage": (
        tree("{train_another,validation_another,test_another,test}/{damage,no_damage}"),
        {
            "train_another/{damage,no_damage}": False,
            "{validation_another,test_another,test}/{damage,no_damage}": True,
        },
        [],
    ),
    "ASL alphabet": (
        tree("asl_alphabet_train/asl_alphabet_train/{A,B,space}", "asl_alphabet_test/asl_alphabet_test"),
        {
            "asl_alphabet_train/asl_alphabet_train/{A,B,space}": False,
            "asl_alphabet_test/asl_alphabet_test": (None, True),
        },
        ["in no class folder"],
    ),
    "Food-101": (
        tree("food-101/images/{apple_pie,waffles}"),
        {"food-101/images/{apple_pie,waffles}": False},
        [],
    ),
    "CUB-200": (
        tree("CUB_200_2011/images/{001.Black_footed_Albatross,002.Laysan_Albatross}"),
        {"CUB_200_2011/images/{001.Black_footed_Albatross,002.Laysan_Albatross}": False},
        [],
    ),
    "Stanford Dogs": (
        tree("Images/{n02085620-Chihuahua,n02085782-Japanese_spaniel}"),
        {"Images/{n02085620-Chihuahua,n02085782-Japanese_spaniel}": False},
        [],
    ),
    "Stanford Cars": (
        tree("cars_train/cars_train", "cars_test/cars_test", files=("00001.jpg", "00002.jpg")),
        {"cars_train/cars_train": (None, False), "cars_test/cars_test": (None, True)},
        [],
    ),
    "EuroSAT": (
        tree("2750/{AnnualCrop,Forest,River}"),
        {"2750/{AnnualCrop,Forest,River}": False},
        [],
    ),
    "EuroSAT in two forms": (
        tree("{EuroSAT,EuroSATallBands}/{AnnualCrop,Forest,River}"),
        {
            "EuroSAT/{AnnualCrop,Forest,River}": ("EuroSAT", False),
            "EuroSATallBands/{AnnualCrop,Forest,River}": ("EuroSATallBands", False),
        },
        ["--classes-at 2"],
    ),
    "PlantVillage in three forms": (
        tree("plantvillage dataset/{color,grayscale,segmented}/{Apple___scab,Corn___rust}"),
        {
            "plantvillage dataset/color/{Apple___scab,Corn___rust}": ("color", False),
            "plantvillage dataset/grayscale/{Apple___scab,Corn___rust}": ("grayscale", False),
            "plantvillage dataset/segmented/{Apple___scab,Corn___rust}": ("segmented", False),
        },
        ["--classes-at 3"],
    ),
    "MVTec": (
        tree(
            "{bottle,cable}/{train,test}/good",
            "bottle/test/{broken_large,contamination}",
            "cable/test/bent_wire",
        ),
        {
            "bottle/train/good": ("bottle", False),
            "bottle/test/{good,broken_large,contamination}": ("bottle", True),
            "cable/train/good": ("cable", False),
            "cable/test/{good,bent_wire}": ("cable", True),
        },
        ["--classes-at 3"],
    ),
    "one thing of MVTec": (
        tree("bottle/train/good", "bottle/test/{good,broken_large}"),
        {
            "bottle/train/good": ("good", False),
            "bottle/test/good": ("good", True),
            "bottle/test/broken_large": (None, True),
        },
        ["broken_large"],
    ),
    "Fruits-360": (
        tree("fruits-360/{Training,Test}/{Apple Braeburn,Banana}", "fruits-360/test-multiple_fruits"),
        {
            "fruits-360/Training/{Apple Braeburn,Banana}": False,
            "fruits-360/Test/{Apple Braeburn,Banana}": True,
            "fruits-360/test-multiple_fruits": (None, False),
        },
        ["test-multiple_fruits"],
    ),
    "brain tumours": (
        tree("{Training,Testing}/{glioma,meningioma,notumor}"),
        {
            "Training/{glioma,meningioma,notumor}": False,
            "Testing/{glioma,meningioma,notumor}": True,
        },
        [],
    ),
    "Imagenette": (
        tree("imagenette2-160/{train,val}/{n01440764,n02102040}"),
        {
            "imagenette2-160/train/{n01440764,n02102040}": False,
            "imagenette2-160/val/{n01440764,n02102040}": True,
        },
        [],
    ),
    "Caltech-101": (
        tree("101_ObjectCategories/{accordion,BACKGROUND_Google}"),
        {"101_ObjectCategories/{accordion,BACKGROUND_Google}": False},
        [],
    ),
    "Oxford Pets": (
        tree("images", files=("Abyssinian_1.jpg", "Abyssinian_2.jpg", "pug_1.jpg", "pug_10.jpg")),
        {"images": (None, False)},
        ["--classes-at 0"],
    ),
    "dogs-vs-cats, its train.zip": (
        tree("train", files=("cat.0.jpg", "cat.1.jpg", "dog.0.jpg", "dog.1.jpg")),
        {"train": (None, False)},
        ["--classes-at 0"],
    ),
    "LFW": (
        tree("lfw/{Aaron_Eckhart,Zydrunas_Ilgauskas}"),
        {"lfw/{Aaron_Eckhart,Zydrunas_Ilgauskas}": False},
        [],
    ),
    "Pascal VOC": (
        tree("VOCdevkit/VOC2012/JPEGImages", files=("2007_000027.jpg", "2007_000032.jpg")),
        {"VOCdevkit/VOC2012/JPEGImages": (None, False)},
        [],
    ),
    "birds, with extra folders": (
        tree("{train,test,valid}/{ABBOTTS BABBLER,YELLOW CACIQUE}", "images to predict"),
        {
            "train/{ABBOTTS BABBLER,YELLOW CACIQUE}": False,
            "{test,valid}/{ABBOTTS BABBLER,YELLOW CACIQUE}": True,
            "images to predict": (None, False),
        },
        ["images to predict"],
    ),
    "skin lesions in parts": (
        tree("HAM10000_images_part_1", "HAM10000_images_part_2"),
        {"HAM10000_images_part_{1,2}": False},
        ["parts of one set"],
    ),
    "class first, split second": (
        tree("{cat,dog}/{train,test}"),
        {
            "cat/train": ("cat", False),
            "cat/test": ("cat", True),
            "dog/train": ("dog", False),
            "dog/test": ("dog", True),
        },
        [],
    ),
    "one set in two sizes": (
        tree("{fruits-100,fruits-original}/{Training,Test}/{Apple,Banana}"),
        {
            "{fruits-100,fruits-original}/Training/{Apple,Banana}": False,
            "{fruits-100,fruits-original}/Test/{Apple,Banana}": True,
        },
        [],
    ),
    "a set beside pictures of its page": (
        tree("set/{train,test}/{cat,dog}", "screenshots"),
        {
            "set/train/{cat,dog}": False,
            "set/test/{cat,dog}": True,
            "screenshots": (None, False),
        },
        ["screenshots"],
    ),
    "classes that only sound like splits": (
        tree("test_tube", "bullet_train", "cat"),
        {"{test_tube,bullet_train,cat}": False},
        [],
    ),
    "albums by date": (
        tree("2019-05 Rome", "2020", "2021-12-24"),
        {"{2019-05 Rome,2020,2021-12-24}": False},
        ["look like dates"],
    ),
    "a camera's folders": (
        tree("DCIM/{100CANON,101CANON}"), {"DCIM/{100CANON,101CANON}": False}, ["camera"]
    ),
    "the inside of a photo library": (
        tree("originals/{0,1,2,3,4,5,6,7,8,9,A,B,C,D,E,F}"),
        {"originals/{0,1,2,3,4,5,6,7,8,9,A,B,C,D,E,F}": False},
        ["drawers"],
    ),
    "digits": (
        tree("{train,test}/{0,1,2,3,4,5,6,7,8,9}"),
        {
            "train/{0,1,2,3,4,5,6,7,8,9}": False,
            "test/{0,1,2,3,4,5,6,7,8,9}": True,
        },
        [],
    ),
    "photos and masks": (
        tree("photos", "masks"), {"{photos,masks}": False}, ["photos and their masks"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("archive", ARCHIVES)
def test_the_trees_of_published_archives(archive):
    names, patterns, told = ARCHIVES[archive]
    want = {}
    for pattern, answer in patterns.items():
        for name in tree(pattern, files=("",)):
            folder = name.removesuffix("/")
            own = [part for part in folder.split("/") if part != "images" or folder == "images"]
            want[folder] = (own[-1], answer) if isinstance(answer, bool) else answer
    for order in (names, names[::-1]):
        seen, notes = found(order)
        assert seen == want
        assert len(notes) == len(told)
        assert all(word in note for word, note in zip(told, notes, strict=True))

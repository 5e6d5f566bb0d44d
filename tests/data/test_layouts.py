"""Classes and test splits of the archives that people use, as their trees are published.

Each tree has a few files of each folder. What is wanted was written down by hand, from what the
publishers say of their folders.
"""

import pytest
from photo_files import pngs, write_zip

from byol.errors import UserError
from data import open_photos
from data.classes import classify


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
    # name: (tree, {folders: (class, whether for the test)}, a word of each sentence that is told)
    # A bool alone: the class is the last folder that is not called images.
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
        tree(
            "asl_alphabet_train/asl_alphabet_train/{A,B,space}",
            "asl_alphabet_test/asl_alphabet_test",
        ),
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
        tree(
            "fruits-360/{Training,Test}/{Apple Braeburn,Banana}", "fruits-360/test-multiple_fruits"
        ),
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
    "COVID radiographs, without their masks": (
        tree("COVID-19_Radiography_Dataset/{COVID,Normal}/images"),
        {"COVID-19_Radiography_Dataset/{COVID,Normal}/images": False},
        [],
    ),
    "a train, a car": (tree("train", "car"), {"{train,car}": False}, []),
    "a train, a car, and a test of both": (
        tree("{train,car}", "test/{train,car}"),
        {"{train,car}": False, "test/{train,car}": True},
        [],
    ),
    "flat splits beside samples": (
        tree("train", "test", "sample"),
        {"{train,sample}": (None, False), "test": (None, True)},
        [],
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


def folders(*names: str) -> list[str]:
    return tree(*names, files=("1.jpg",))


@pytest.mark.parametrize(
    ("names", "level", "want"),
    [
        (folders("{color,grey}/{apple,corn}"), 2,
         {"{color,grey}/{apple,corn}": False}),
        (folders("v1/{train,test}/{apple,corn}"), 3,
         {"v1/train/{apple,corn}": False, "v1/test/{apple,corn}": True}),
        (folders("{cat,dog}/{seg_train,seg_test}/x"), 1,
         {"cat/seg_train/x": ("cat", False), "cat/seg_test/x": ("cat", True),
          "dog/seg_train/x": ("dog", False), "dog/seg_test/x": ("dog", True)}),
        (folders("cat/a", "dog", "."), 2, {"cat/a": ("a", False), "{dog,.}": (None, False)}),
        (folders("{train,car}"), 1, {"{train,car}": False}),
    ],
)  # fmt: skip
def test_classes_at_names_the_folder_of_the_class(names, level, want):
    seen, notes = found(names, level)
    expected = {}
    for pattern, answer in want.items():
        for name in tree(pattern, files=("",)):
            folder = name[:-1]
            last = folder.rpartition("/")[2]
            expected[folder] = (last, answer) if isinstance(answer, bool) else answer
    assert (seen, notes) == (expected, [])


def test_classes_at_0_takes_the_class_from_the_name_of_the_file():
    names = ["train/cat.0.jpg", "train/cat.1.jpg", "train/wild cat_20.jpg", "train/dog (3).jpeg",
             "test/dog-4.JPG", "test/0815.jpg"]  # fmt: skip
    layout = classify(names, 0)
    assert [layout.classes[label] if label >= 0 else None for label in layout.labels] == [
        *("cat", "cat", "wild cat", "dog", "dog", None)
    ]
    assert layout.is_test.tolist() == [False] * 4 + [True] * 2
    assert layout.test_folders == {"test": 2}


def test_classes_at_needs_no_new_pack_and_says_if_there_is_no_class(cache, tmp_path):
    path = write_zip(tmp_path / "a.zip", pngs(*folders("{color,grey}/{apple,corn}")))
    outer = open_photos(str(path), 8, progress=False)
    inner = open_photos(str(path), 8, 2, progress=False)
    assert (outer.classes, inner.classes) == (["color", "grey"], ["apple", "corn"])
    assert [inner.classes[label] for label in inner.labels] == ["apple", "corn"] * 2
    assert len(list(cache.iterdir())) == 1
    with pytest.raises(UserError, match=r"^--classes-at 3: no photo .* the deepest path has 2"):
        open_photos(str(path), 8, 3, progress=False)


def test_one_name_in_two_unicode_forms_is_one_class():
    seen, notes = found(folders("{Caf\u00e9,tea}", "test/{Cafe\u0301,tea}"))
    assert seen == {
        "Caf\u00e9": ("Caf\u00e9", False),
        "test/Cafe\u0301": ("Caf\u00e9", True),
        "tea": ("tea", False),
        "test/tea": ("tea", True),
    }
    assert notes == ["the class Caf\u00e9 is written in two Unicode forms: they are joined"]


@pytest.mark.parametrize("twin", ["CAT", "cat ", "cat\u200b", "\uff43at"])
def test_classes_that_look_alike_are_told(twin):
    (note,) = found(folders("cat", twin, "dog"))[1]
    assert "look alike, and count as 2" in note
    assert note.isprintable()
    assert found(folders("cat", "cat2", "C", "C++", "c-a-t"))[1] == []


def test_a_class_with_photos_for_the_test_alone_is_none():
    seen, (note,) = found(folders("train/{cat,dog}", "test/{cat,dog,bird}"))
    assert seen["test/bird"] == (None, True)
    assert "of bird there are photos for the test alone" in note
    seen, (note,) = found(folders("train", "test/{cat,dog}"))  # flat, so that there are no classes
    assert seen == {"train": (None, False), "test/cat": (None, True), "test/dog": (None, True)}
    assert "of cat and dog there are photos for the test alone" in note
    seen, notes = found(folders("test/{cat,dog}"))  # nothing to train on: the split says so
    assert seen == {"test/cat": ("cat", True), "test/dog": ("dog", True)}
    assert notes == []


def test_val_and_test_are_told_as_one_test(cache, tmp_path):
    names = folders("train/{cat,dog}", "val/{cat,dog}", "test/cat")
    photos = open_photos(str(write_zip(tmp_path / "a.zip", pngs(*names))), 8, progress=False)
    assert photos.test_folders == {"test": 1, "val": 2}
    assert photos.describe_classes() == (
        "classes     2: cat 1 + 2 test, dog 1 + 1 test; for the test: the folders test (1) and "
        "val (2), taken together; nothing passed over"
    )


def test_ten_classes_are_named(cache, tmp_path):
    names = [f"{chr(97 + i)}/{j}.png" for i in range(12) for j in range(i + 1)] + ["0.png"]
    photos = open_photos(str(write_zip(tmp_path / "a.zip", pngs(*names))), 8, progress=False)
    assert photos.describe_classes() == (
        "classes     12: a 1, b 2, c 3, d 4, e 5, f 6, g 7, h 8, i 9, j 10, and 2 more; 1 photo "
        "without a class; no folder for the test; nothing passed over"
    )


def test_sentences_are_told_at_each_opening(cache, tmp_path, capsys):
    path = write_zip(tmp_path / "a.zip", pngs(*folders("{2019,2020}")))
    for _ in range(2):
        open_photos(str(path), 8, progress=False)
        told = capsys.readouterr().err
        assert told.startswith("note        the class folders 2019 and 2020 look like dates")
        assert told.count("\n") == 1

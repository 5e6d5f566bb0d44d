"""Tell photos from all else: by the names of files and folders, and by the first bytes of a file.

A file is a photo if its first bytes say so, whatever its ending. Files that are known by their
ending to be something else are not opened: videos, texts, camera RAW files. Folders that systems
and programs keep beside photos are passed over whole.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from byol.errors import printable

PHOTO = "photo"
# What is passed over, in the order in which it is told: one of it, and more of it.
RAW = "camera RAW file"
PICTURE = "picture of another format"
VIDEO = "video"
ARCHIVE = "archive"
DOCUMENT = "document"
SOUND = "sound file"
TEXT = "text file"
OTHER = "other file"
COPY = "copy of a photo"
IN_LABELLED = "photo that is in --labelled as well"
LINK = "link to what is listed already"
BACKUP = "backup file"
MASKS = "folder of masks or annotations"
OWN_FOLDER = "folder that this project wrote"
OWN_PICTURE = "picture that this project drew"
SYSTEM_FOLDER = "folder of a system or program"
SYSTEM_FILE = "file of a system or program"
HIDDEN_FOLDER = "hidden folder"
HIDDEN_FILE = "hidden file"
PLURALS = {
    RAW: "camera RAW files",
    PICTURE: "pictures of other formats",
    VIDEO: "videos",
    ARCHIVE: "archives",
    DOCUMENT: "documents",
    SOUND: "sound files",
    TEXT: "text files",
    OTHER: "other files",
    COPY: "copies of photos",
    IN_LABELLED: "photos that are in --labelled as well",
    LINK: "links to what is listed already",
    BACKUP: "backup files",
    MASKS: "folders of masks or annotations",
    OWN_FOLDER: "folders that this project wrote",
    OWN_PICTURE: "pictures that this project drew",
    SYSTEM_FOLDER: "folders of a system or program",
    SYSTEM_FILE: "files of a system or program",
    HIDDEN_FOLDER: "hidden folders",
    HIDDEN_FILE: "hidden files",
}
REMEDIES = {  # if there are no photos beside them
    RAW: "export them as JPEG first, with the camera's program, darktable or RawTherapee",
    PICTURE: "convert them to JPEG or PNG first",
    VIDEO: "take pictures out of them first, with ffmpeg for example",
    ARCHIVE: "unpack them and give that folder, or give one of them itself as --data",
}
NAMED = 3  # of each kind
LONGEST = 60  # characters of a name

# ---- names of files

PHOTO_ENDINGS = {
    *("jpg", "jpeg", "jpe", "jfif", "jif", "pjpeg", "pjp", "mpo", "png", "apng", "webp"),
    *("bmp", "dib", "gif", "tif", "tiff"),
    *("heic", "heics", "heif", "heifs", "hif", "avif", "avifs"),
}
ENDINGS = {  # of what is no photo, without a look at it
    RAW: "3fr arw cr2 cr3 crw dcr dng erf fff gpr iiq k25 kdc mef mos mrw nef nrw orf pef ptx raf "
    "raw rw2 rwl sr2 srf srw x3f",
    PICTURE: "ai cur dcm dds emf eps exr fit fits hdr icns ico j2c j2k jp2 jpf jpm jpx jxl jxr pbm "
    "pcx pfm pgm pnm ppm ps psb psd qoi ras sgi svg svgz tga wdp wmf xbm xcf xpm",
    VIDEO: "3g2 3gp avi flv insv lrv m2ts m2v m4v mkv mov mp mp4 mpe mpeg mpg mts ogv vob webm wmv",
    ARCHIVE: "7z bz2 cab dmg gz iso jar lz4 lzma rar tar tbz2 tgz txz xz zip zst",
    DOCUMENT: "doc docx epub key numbers odp ods odt pages pdf ppt pptx rtf xls xlsx",
    SOUND: "aac aif aiff amr flac m4a mid mp3 oga ogg opus wav wma",
    TEXT: "aae bat bib c cfg conf cpp css csv dop err h htm html ini ipynb java js json jsonl log "
    "lst m md md5 nfo out pp3 ps1 py r rst sh sha1 sha256 sql srt tex toml tsv txt url vtt webloc "
    "xmp xml yaml yml",
    BACKUP: "bak backup old orig",
    OTHER: "cop cot crdownload class ckpt db dll download exe h5 hdf5 ithmb lnk lock lrcat lrprev "
    "mat msi npy npz o onnx parquet part partial pickle pkl pt pth pyc safetensors so sqlite temp "
    "tfrecord tmp",
    SYSTEM_FILE: "thm",  # a small picture that a camera keeps of a video
}
_BY_ENDING = {ending: kind for kind, endings in ENDINGS.items() for ending in endings.split()}
SYSTEM_FILES = {
    *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "autorun.inf"),
    *("picasa.ini", "zbthumbnail.info", "icon\r", "pagefile.sys", "hiberfil.sys", "swapfile.sys"),
}
SYSTEM_FILE_NAME = re.compile(r"syno(?:photo|file|index)_|~syncthing~|\.?_?~\$")
OWN_PICTURES = {
    *("loss1.png", "loss2.png", "accuracy.png", "pretraining.png", "table.png", "unfinished.png"),
    *("views.png", "neighbours.png", "confusion.png", "mistakes.png"),
    *("map.png", "nearest.png", "duplicates.png", "suggest.png"),
}

SORTED = ".byol-sorted"  # an empty file in a folder of copies that predict.py made

# ---- names of folders

SYSTEM_FOLDERS = {
    *("@eadir", "@tmp", "@sharebin", "#recycle", "#snapshot"),  # Synology
    *("@recycle", "@recently-snapshot", "@__thumb"),  # QNAP
    *("$recycle.bin", "recycler", "recycled", "system volume information"),  # Windows
    *("__macosx", "network trash folder", "temporary items", "ipod photo cache"),  # Apple
    *("lost+found", "__pycache__", "node_modules", "_gsdata_", "[originals]", "trashbox"),
}
SYSTEM_FOLDER_NAME = re.compile(  # Lightroom's previews, Nextcloud's, a disk check's finds
    r".*\.(?:lrdata|lrcat-data|cocatalog-data)|appdata_oc\w+|found\.\d{3}"
)
LIBRARY = (".photoslibrary", ".photolibrary", ".aplibrary", ".migratedphotolibrary")  # Apple's
IN_LIBRARY = {"originals", "masters"}  # all else in it is made from these
MASK_FOLDERS = {
    *("ground_truth", "groundtruth", "annotation", "annotations", "trimap", "trimaps"),
    *("segmentation", "segmentations", "segmentationclass", "segmentationobject"),
}
MASKS_BESIDE_IMAGES = {"mask", "masks", "label", "labels", "gt"}  # which may be classes elsewhere
IMAGE_FOLDERS = {"image", "images", "img", "imgs", "jpegimages", "photos", "pictures"}


def ending_of(name: str) -> str:
    """Give what follows the last dot of a name, in lower case; nothing if there is no dot."""
    return name.rpartition(".")[2].lower() if "." in name else ""


def claims_photo(name: str) -> bool:
    """Tell whether the ending of a file is that of a photo."""
    return ending_of(name) in PHOTO_ENDINGS


def kind_of_file(name: str) -> str:
    """Say what a file is by its name without folders; nothing if it may be a photo."""
    lower = name.lower()
    if lower in SYSTEM_FILES or SYSTEM_FILE_NAME.match(lower):
        return SYSTEM_FILE
    if name.startswith("."):
        return HIDDEN_FILE
    ending = ending_of(name)
    if lower.endswith("~") or ending.endswith("_original"):  # an editor's, exiftool's
        return BACKUP
    return _BY_ENDING.get(ending, "")


def kind_of_folder(name: str, parent: str, beside: Collection[str]) -> str:
    """Say what a folder is if its files are no photos; nothing if they may be.

    parent: the name of the folder around it. beside: the folders in that, in lower case.
    """
    lower = name.lower()
    if lower in SYSTEM_FOLDERS or SYSTEM_FOLDER_NAME.fullmatch(lower):
        return SYSTEM_FOLDER
    if name.startswith("."):
        return HIDDEN_FOLDER
    if parent.lower().endswith(LIBRARY):
        return "" if lower in IN_LIBRARY else SYSTEM_FOLDER
    if lower in MASK_FOLDERS or (lower in MASKS_BESIDE_IMAGES and IMAGE_FOLDERS & set(beside)):
        return MASKS
    return ""


# ---- first bytes

HEAD_BYTES = 160
HEIF_BRANDS = {
    *(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
    *(b"mif1", b"mif2", b"msf1", b"miaf", b"avif", b"avis"),
}
BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
BEGINNINGS = {
    b"\xff\xd8\xff": PHOTO,
    b"\x89PNG\r\n\x1a\n": PHOTO,
    b"GIF87a": PHOTO,
    b"GIF89a": PHOTO,
    b"II*\0": PHOTO,
    b"MM\0*": PHOTO,
    b"II+\0": PHOTO,
    b"MM\0+": PHOTO,
    b"IIRO": RAW,
    b"IIRS": RAW,
    b"IIU\0": RAW,
    b"FUJIFILMCCD-RAW": RAW,
    b"FOVb": RAW,
    b"\0MRM": RAW,
    b"8BPS": PICTURE,
    b"\xff\x0a": PICTURE,
    b"\0\0\0\x0cJXL ": PICTURE,
    b"\0\0\0\x0cjP  ": PICTURE,
    b"\xff\x4f\xff\x51": PICTURE,
    b"\0\0\1\0": PICTURE,
    b"gimp xcf": PICTURE,
    b"DDS ": PICTURE,
    b"\x76\x2f\x31\x01": PICTURE,
    b"#?RADIANCE": PICTURE,
    b"SIMPLE  =": PICTURE,
    b"qoif": PICTURE,
    b"\x1aE\xdf\xa3": VIDEO,
    b"\0\0\1\xba": VIDEO,
    b"\0\0\1\xb3": VIDEO,
    b"FLV\1": VIDEO,
    b"\x30\x26\xb2\x75": VIDEO,
    b"PK\3\4": ARCHIVE,
    b"PK\5\6": ARCHIVE,
    b"\x1f\x8b": ARCHIVE,
    b"BZh": ARCHIVE,
    b"\xfd7zXZ\0": ARCHIVE,
    b"7z\xbc\xaf\x27\x1c": ARCHIVE,
    b"Rar!\x1a\x07": ARCHIVE,
    b"\x28\xb5\x2f\xfd": ARCHIVE,
    b"%PDF": DOCUMENT,
    b"\xd0\xcf\x11\xe0": DOCUMENT,
    b"{\\rtf": DOCUMENT,
    b"ID3": SOUND,
    b"fLaC": SOUND,
    b"OggS": SOUND,
}
_LENGTHS = sorted({len(beginning) for beginning in BEGINNINGS}, reverse=True)


def kind_of_bytes(head: bytes) -> str:
    """Say what a file is by its first `HEAD_BYTES` bytes: `PHOTO`, or what else."""
    if head[4:8] == b"ftyp":
        return _kind_of_boxes(head)
    if head[:4] == b"RIFF":
        return {b"WEBP": PHOTO, b"AVI ": VIDEO, b"WAVE": SOUND}.get(head[8:12], OTHER)
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in BMP_HEADERS:
        return PHOTO
    if head[:4] == b"II*\0" and head[8:10] == b"CR":
        return RAW
    if head[128:132] == b"DICM" or re.match(rb"P[1-7f]\s", head):
        return PICTURE
    for length in _LENGTHS:
        if kind := BEGINNINGS.get(head[:length]):
            return kind
    return TEXT if head and all(byte >= 32 or byte in b"\t\n\r\f" for byte in head) else OTHER


def _kind_of_boxes(head: bytes) -> str:
    """Say what a file of the family of MP4 is: by its brand, or by those that it goes with."""
    brand = head[8:12]
    others = head[16 : int.from_bytes(head[:4], "big")]
    brands = {others[at : at + 4] for at in range(0, len(others), 4)}
    if brand in HEIF_BRANDS:
        return PHOTO
    if brand == b"crx ":
        return RAW
    return PHOTO if brands & HEIF_BRANDS and brand not in (b"qt  ", b"mp42", b"isom") else VIDEO


def is_own_picture(name: str, head: bytes) -> bool:
    """Tell whether a file is a picture of `plot_losses.py` or `evaluate.py`: matplotlib's."""
    return name.rpartition("/")[2] in OWN_PICTURES and b"Software\0Matplotlib" in head


# ---- what was passed over


class PassedOver:
    """Counts what is no photo by kind, with its first names.

    kinds: kind -> [count, first names], which JSON can hold
    """

    def __init__(self, kinds: dict[str, list] | None = None):
        self.kinds = kinds or {}

    def __bool__(self) -> bool:
        return bool(self.kinds)

    def add(self, kind: str, name: str) -> None:
        entry = self.kinds.setdefault(kind, [0, []])
        entry[0] += 1
        if len(entry[1]) < NAMED:
            entry[1].append(name if len(name) <= LONGEST else f"...{name[3 - LONGEST :]}")

    def __add__(self, other: PassedOver) -> PassedOver:
        kinds = {kind: [count, names[:]] for kind, (count, names) in self.kinds.items()}
        for kind, (count, names) in other.kinds.items():
            entry = kinds.setdefault(kind, [0, []])
            entry[0] += count
            entry[1] = (entry[1] + names)[:NAMED]
        return PassedOver(kinds)

    def __str__(self) -> str:
        """Write for people: "2 videos (a.mp4, b.mp4), 1 text file (c.txt)"."""
        parts = []
        for kind in sorted(self.kinds, key=[*PLURALS].index):
            count, names = self.kinds[kind]
            more = ", ..." if count > len(names) else ""
            listed = printable(", ".join(names))
            parts.append(f"{count:,} {PLURALS[kind] if count > 1 else kind} ({listed}{more})")
        return ", ".join(parts)

    def remedy(self) -> str:
        """Say what to do if there is nothing else."""
        known = [kind for kind in REMEDIES if kind in self.kinds]
        if not known:
            return "check the path"
        return REMEDIES[max(known, key=lambda kind: self.kinds[kind][0])]

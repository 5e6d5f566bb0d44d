"""A script that opens the photos of a folder and says how many there are."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from byol.command_line import command
from data import open_photos


@command
def main(argv: list[str] | None = None) -> None:
    print(f"{len(open_photos(sys.argv[1], 8, progress=False).names)} photos")


sys.exit(main())

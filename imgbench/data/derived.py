"""Files that are made of photographs, and pass for photographs: masks of segmentation, and augmented copies.

Only names are looked at. They are believed where the photograph is there too that a file was made of.
"""

import re
from collections.abc import Sequence

SEPARATOR = r"[_\-. ]"
MASKS = "masks?|gt|seg|segmentations?|labels?|annotations?|ground_?truth"
MASK_NAME = re.compile(rf"{SEPARATOR}({MASKS})({SEPARATOR}?\d+)?$", re.IGNORECASE)
MASK_FOLDER = re.compile(rf"({MASKS})$", re.IGNORECASE)
IMAGE_FOLDER = re.compile("(images?|imgs?|photos?|originals?)$", re.IGNORECASE)
CHANGED = re.compile(
    rf"{SEPARATOR}(aug|augmented|[hv]?flip(ped)?|mirror(ed)?|rot(ated?|ation)?|blur(red)?|noisy?|bright(er|ness)?|"
    rf"dark(er)?|crop(ped)?|shear(ed)?|zoom(ed)?)({SEPARATOR}?\d+)*$",
    re.IGNORECASE,
)
# How Roboflow and Augmentor call the copies that they make of one photograph.
MADE = re.compile(r"(?P<of>.+)\.rf\.[0-9a-f]{32}|(?P<from>.+?_original_.+)_[0-9a-f]{8}-[0-9a-f-]{27}", re.IGNORECASE)


def mask_rows(paths: Sequence[str]) -> list[int]:
    """Those of the images that are called masks, in name or folder, and have a photograph of the same name beside."""
    marked: dict[int, str] = {}
    others: set[str] = set()
    text = "\n".join(paths).lower()  # a hundred times as fast as looking at each of a million names
    if not any(word in text for word in ("mask", "gt", "seg", "label", "annotation", "truth")):
        return []
    for row, path in enumerate(paths):
        *folders, name = path.split("/")
        stem = name.rpartition(".")[0] or name
        bare = MASK_NAME.sub("", stem)
        kept = [part for part in folders if not MASK_FOLDER.match(part) and not IMAGE_FOLDER.match(part)]
        key = "/".join([*kept, bare])
        if bare != stem or any(map(MASK_FOLDER.match, folders)):
            marked[row] = key
        else:
            others.add(key)
    return [row for row, key in marked.items() if key in others]


def augmented_rows(paths: Sequence[str]) -> list[int]:
    """Those of the images whose names say that they are changed copies of another one that is there."""
    stems = [path.rpartition(".")[0] or path for path in paths]
    known = set(stems)
    made: dict[str, list[int]] = {}
    found = []
    for row, stem in enumerate(stems):
        if match := MADE.fullmatch(stem):
            made.setdefault(match["of"] or match["from"], []).append(row)
        elif (bare := CHANGED.sub("", stem)) != stem and bare in known:
            found.append(row)
    return sorted(found + [row for rows in made.values() if len(rows) > 1 for row in rows])

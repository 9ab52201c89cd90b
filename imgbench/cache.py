"""Shows what imgbench keeps to be faster the next time, among it decoded photographs, and clears it."""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

from imgbench.cli import guarded_main
from imgbench.data.pixels import cache_dir

EXAMPLES = """examples:
  python -m imgbench.cache              what lies there, and how much room it takes
  python -m imgbench.cache --clear      delete all of it; what is needed is made anew

The environment variable IMGBENCH_CACHE=DIR puts the cache elsewhere.
"""
LOCKS = "locks"  # another process may hold one of them; they take no room
CONTENTS = {
    "images": "decoded photographs, one entry for each folder and image size",
    "audits": "what was found in folders of photographs",
    "features": "what pretrained networks make of photographs",
    "digits": "the digits of data=digits",
    "onnxruntime-web": "what imgbench demo --static computes with",
}


@dataclass(frozen=True)
class Entry:
    """A file or a folder of the cache."""

    path: Path
    bytes: int
    files: int

    @property
    def content(self) -> str:
        return next((text for name, text in CONTENTS.items() if self.path.name.startswith(name)), "")


def cache(clear: bool = False) -> list[Entry]:
    """What lies in the cache, the largest first; `clear` deletes it."""
    home = cache_dir()
    entries = [_measured(path) for path in home.iterdir() if path.name != LOCKS] if home.is_dir() else []
    if clear:
        for entry in entries:
            if entry.path.is_dir() and not entry.path.is_symlink():
                shutil.rmtree(entry.path)
            else:
                entry.path.unlink(missing_ok=True)
    return sorted(entries, key=lambda entry: -entry.bytes)


def _measured(path: Path) -> Entry:
    found = [path] if path.is_file() or path.is_symlink() else [file for file in path.rglob("*") if file.is_file()]
    return Entry(path, sum(file.lstat().st_size for file in found), len(found))


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m imgbench.cache",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clear", action="store_true", help="delete all of it")
    args = parser.parse_args()
    entries = cache(args.clear)
    total = sum(entry.bytes for entry in entries) / 1e6
    print(f"{'Cleared' if args.clear else 'Cache'}    {cache_dir()}: {total:,.1f} MB in {len(entries)} entries")
    for entry in entries:
        print(
            f"  {entry.bytes / 1e6:>10,.1f} MB  {entry.files:>6} files  {entry.path.name:<10}  {entry.content}".rstrip()
        )
    if entries and not args.clear:
        print("Decoded photographs are in there. imgbench cache --clear deletes all of it.")


if __name__ == "__main__":
    guarded_main(main)

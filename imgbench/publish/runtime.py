"""onnxruntime-web, which computes an ONNX file in a browser: taken once through npm, and kept in the cache."""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from imgbench.data.pixels import cache_dir
from imgbench.errors import UserError
from imgbench.files import replacing

VERSION = "1.30.0"
LOADER, WASM, SCRIPT = "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm", "ort.wasm.min.js"
HASHES = {  # SHA-256: what a page computes with is what it was tested with, wherever it came from
    LOADER: "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    SCRIPT: "faece07e84faa9001f5104bbe4e5c70861d06cb2376a0dea1fa0ad33a67adc81",
}
PACK = f"npm pack onnxruntime-web@{VERSION}"
ELSEWHERE = (
    f"Or take onnxruntime-web-{VERSION}.tgz from `{PACK}` on another computer, and name it: --onnxruntime-web FILE"
)


def onnxruntime_web(given: Path | None = None) -> dict[str, bytes]:
    """The content of its files, by their names in HASHES.

    Args:
        given: npm's archive, or a folder with the package or its files; None takes the cache, or else npm.

    Raises:
        UserError: it is not there, or of another version, or npm cannot fetch it.
    """
    kept = cache_dir() / f"onnxruntime-web-{VERSION}"
    if given is None and not _wrong(files := _in_folder(kept)):
        return files
    files, source = (_read(given), f"--onnxruntime-web {given}") if given else (_from_npm(), "what npm fetched")
    if wrong := _wrong(files):
        raise UserError(
            f"{source}: {', '.join(wrong)} is missing or not that of onnxruntime-web {VERSION}, the version that pages "
            f"are made with. `{PACK}` fetches it."
        )
    _keep(kept, files)
    return files


def _wrong(files: dict[str, bytes]) -> list[str]:
    return [name for name, known in HASHES.items() if hashlib.sha256(files.get(name, b"")).hexdigest() != known]


def _read(given: Path) -> dict[str, bytes]:
    if given.is_dir():
        places = (given, given / "dist", given / "onnxruntime-web" / "dist", given / "package" / "dist")
        return next(filter(None, map(_in_folder, places)), {})
    try:
        with tarfile.open(given) as archive:
            members = {name: archive.extractfile(f"package/dist/{name}") for name in HASHES}
            return {name: member.read() for name, member in members.items() if member}
    except (OSError, KeyError, tarfile.TarError) as error:
        raise UserError(
            f"--onnxruntime-web {given} is neither npm's archive of onnxruntime-web {VERSION} nor a folder.\n"
            f"`{PACK}` fetches the archive."
        ) from error


def _in_folder(folder: Path) -> dict[str, bytes]:
    """Nothing where not all are there."""
    paths = {name: folder / name for name in HASHES}
    return {name: path.read_bytes() for name, path in paths.items()} if all(map(Path.is_file, paths.values())) else {}


def _from_npm() -> dict[str, bytes]:
    needed = f"--static needs onnxruntime-web {VERSION}, which is taken once through npm"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"{needed}, and npm is not installed. Install Node.js.\n{ELSEWHERE}")
    with tempfile.TemporaryDirectory() as folder:
        words = [npm, "pack", f"onnxruntime-web@{VERSION}", "--pack-destination", folder, "--prefer-offline"]
        patience = ["--fetch-timeout=60000", "--fetch-retries=1"]  # ms; npm itself would wait for a quarter of an hour
        done = subprocess.run(
            [*words, *patience], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or not archives:
            said = "".join(f": {line}" for line in (done.stderr or done.stdout).strip().splitlines()[:1])
            raise UserError(f"{needed}, and npm could not fetch it{said}. Is there a network?\n{ELSEWHERE}")
        return _read(archives[0])


def _keep(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with replacing(folder / name, "wb") as unfinished:
            unfinished.write(content)

"""The page as a folder that needs no server: pictures are decoded and classified in the visitor's own browser.

All that the page computes with lies in scripts beside it, because a browser that opens a page from a disk lets it load
scripts and nothing else. Compressed, the 14 MB of onnxruntime-web become 5 even so.
"""

import base64
import gzip
import json
import logging
import math
import shlex
from pathlib import Path
from typing import Any

from imgbench.content_policy import FOLDER
from imgbench.errors import UserError
from imgbench.files import write_atomically
from imgbench.inference import parity
from imgbench.inference.acceptance import Acceptance, kept_of
from imgbench.inference.onnx_file import upgraded
from imgbench.inference.onnx_model import OnnxModel
from imgbench.language import LANGUAGES
from imgbench.publish.answers import acceptance_of, title_of
from imgbench.publish.runtime import LOADER, SCRIPT, WASM, onnxruntime_web
from imgbench.report.catalogue import Texts, entries
from imgbench.report.page import percent
from imgbench.report.study_file import SMALL
from imgbench.run import Run

log = logging.getLogger(__name__)

OWN_PAGE = '<script src="runtime.js">'  # what every page of ours holds
PAGE = Path(__file__).parent / "static"
TEXTS = (
    "try_it", "choose_pictures", "take_photograph", "stays_in_browser", "no_picture", "not_a_picture", "picture_format",
    "picture_deep", "picture_damaged", "unsure_answer", "doubt_probability", "doubt_unlike", "as_seen", "looked_at",
    "look", "loading", "not_loaded", "unsure_rule", "never_unsure", "only_unlike", "not_recognised", "model_file",
    "tells_apart", "tells_apart_more",
)  # fmt: skip


def write_static(path: str | Path, folder: Path, max_error: float | None = None, runtime: Path | None = None) -> Path:
    """Writes the folder; returns the page.

    Args:
        path: a run directory, its best checkpoint or an ONNX file. Of a study's directory its small file is taken; a
            run without `model.onnx` gets it.
        max_error: as in `predict`; None takes the smallest share that can be promised without leaving most unsure.
        runtime: onnxruntime-web, as `onnxruntime_web` takes it.

    Raises:
        UserError: there is no such model or runtime, `max_error` cannot be promised, or the folder cannot be written or
            holds another page.
    """
    page = folder / "index.html"
    is_anew = page.exists()
    if is_anew and OWN_PAGE not in page.read_text("utf-8", "replace"):
        raise UserError(
            f"--static {folder}: {page} was not made by this command, and is not overwritten. Name a new folder."
        )
    file = onnx_file(Path(path))
    model = OnnxModel(file)
    acceptance, _ = acceptance_of(file if file.name == SMALL else path, model, max_error)
    files = onnxruntime_web(runtime)
    preprocessing = model.preprocessing
    facts: dict[str, Any] = {
        "title": {language: title_of(path, Texts(language)) for language in LANGUAGES},
        "classes": model.class_names,
        "size": preprocessing.image_size,
        "stored": preprocessing.stored_size,
        "margin": preprocessing.center.start,
        "decoding": preprocessing.decoding,
        "limit": acceptance.limit if acceptance and model.tells_novelty and math.isfinite(acceptance.limit) else None,
        "texts": {language: {key: entries()[key][language] for key in TEXTS} for language in LANGUAGES},
    }
    if isinstance(acceptance, Acceptance):
        selection = acceptance.selection
        facts |= {"threshold": max(selection.threshold or 0, 0), "max_error": percent(selection.max_error, 0)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / SCRIPT, files[SCRIPT].decode())
        loader, wasm = json.dumps(files[LOADER].decode()), packed(files[WASM])
        write_atomically(folder / "runtime.js", f'const LOADER = {loader};\nconst WASM = "{wasm}";\n')
        content = file.read_bytes() if model.resizes else upgraded(file)
        model_js = f'const FACTS = {json.dumps(facts)};\nconst MODEL = "{packed(content)}";\n'
        write_atomically(folder / "model.js", model_js)
        if is_anew:  # pages of an earlier imgbench had the weights beside them too
            (folder / "model.onnx").unlink(missing_ok=True)
        for name in ("classify.js", "page.js", "page.css", "index.html"):
            write_atomically(folder / name, (PAGE / name).read_text("utf-8").replace("{{ policy }}", FOLDER))
    except OSError as error:
        raise UserError(f"--static {folder} cannot be written: {error.strerror}.") from error
    return folder / "index.html"


def onnx_file(path: Path) -> Path:
    """The ONNX file itself, the small one of a study, or that of the run.

    The last is written and compared with the run where it is missing or older than its checkpoint.

    It is written too where it says otherwise than the run which answers are unsure, or, as of an earlier imgbench,
    nothing.

    Raises:
        UserError: there is none, and none can be written.
    """
    if path.is_file() and path.suffix.lower() == ".onnx":
        return path
    run = Run.open(path)
    if path.is_dir() and (small := run.path / SMALL).is_file():
        log.info(
            "Model    %s, the small file of the study (%.2f MB). To take the trained model instead, name %s.",
            run.shown / SMALL,
            small.stat().st_size / 1e6,
            run.shown / "checkpoints" / "best.ckpt",
        )
        return small
    if path.is_file() and path.resolve() != run.best.resolve():
        raise UserError(
            f"{path} is not the checkpoint that the run kept. Name the run, {run.shown}, or write an ONNX file of it:\n"
            f"python -m imgbench.export {shlex.quote(str(path))} --output model.onnx"
        )
    file = run.path / "model.onnx"
    if run.best.is_file() and not (file.is_file() and _is_current(file, run)):
        log.info("Writing %s ...", file)
        parity.export_onnx(path)
    if not file.is_file():
        raise UserError(
            f"{run.shown} has neither checkpoints/best.ckpt nor model.onnx. Train it to the end of an epoch."
        )
    return file


def _is_current(file: Path, run: Run) -> bool:
    if file.stat().st_mtime < run.best.stat().st_mtime:
        return False
    model = OnnxModel(file)
    _, facts = kept_of(run, model)
    return model.resizes and all(model.metadata.get(name) == value for name, value in facts.items())


def packed(content: bytes) -> str:
    """Compressed, and as text that a script can hold."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()

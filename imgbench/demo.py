"""Serves a page on which one drops, pastes or photographs a picture and sees what the run says of it."""

import importlib.util
import threading
from pathlib import Path

from imgbench.cli import check_max_error, guarded_main, run_parser
from imgbench.errors import UserError
from imgbench.report.catalogue import LANGUAGES, Texts, language_of_locale

EXAMPLES = """examples:
  python -m imgbench.demo outputs/potato/vgg16/2026-01-31_12-00-00
  python -m imgbench.demo RUN --port 8080 --max-error 0.02
  python -m imgbench.demo RUN --static page           a folder for any web space, or to be opened from the disk
"""
PORT = 7860


def demo(
    run: str | Path, port: int = PORT, max_error: float | None = None, language: str | None = None, share: bool = False
) -> None:
    """Serves the page until it is interrupted.

    Args:
        run: a run directory, a checkpoint or an ONNX file.
        port: of this machine; 0 takes any that is free.
        max_error: as in `predict`; None takes the smallest share that can be promised without leaving most unsure.
        language: `en` or `zh`; None takes that of the locale.
        share: makes a public address too, through a server of Gradio's.

    Raises:
        UserError: there is no such model, `max_error` cannot be promised, the port is taken, or Gradio is missing.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError('The page needs gradio, not installed here. Mend it with: pip install "imgbench[demo]"')
    from imgbench.publish import answers  # take seconds, and --help needs no torch
    from imgbench.publish import page_with_server as page

    page.free_port(port)  # before anything is computed
    texts = Texts(language or language_of_locale())
    classifier = answers.Classifier(run, max_error)
    with page.serving(classifier, answers.title_of(run, texts), texts, port, share) as address:
        print(f"The page is at {address} until Ctrl-C.", flush=True)
        threading.Event().wait()


def static(run: str | Path, folder: Path, max_error: float | None = None, onnxruntime_web: Path | None = None) -> None:
    """Writes the page as a folder.

    Raises:
        UserError: there is no such model, `max_error` cannot be promised, onnxruntime-web cannot be had, or the folder
            cannot be written.
    """
    from imgbench.publish.static_page import write_static

    page = write_static(run, folder, max_error, onnxruntime_web)
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    print(f"Written  {folder} ({size / 1e6:.1f} MB): open {page}, or put the folder on any web space.")


def main() -> None:
    parser = run_parser("demo", __doc__, EXAMPLES)
    parser.add_argument(
        "--port", type=int, default=PORT, metavar="N", help=f"of this machine (default: {PORT}; 0: any that is free)"
    )
    parser.add_argument(
        "--max-error", metavar="SHARE", type=float,
        help="call pictures unsure, so that of the others at most this share, such as 0.02, is wrong, with 95 %% "
        "confidence (default: the smallest that the run can promise without leaving most unsure)",
    )  # fmt: skip
    parser.add_argument("--language", choices=LANGUAGES, help="of the page (default: by the locale)")
    parser.add_argument(
        "--share", action="store_true",
        help="make a public address too, through a server of Gradio's: whoever knows it sees the page for a week, "
        "with training photographs if the run shows them",
    )  # fmt: skip
    parser.add_argument(
        "--static", metavar="DIR", type=Path,
        help="write instead a folder that needs no server: it can be put on any web space, or opened from the disk",
    )  # fmt: skip
    parser.add_argument(
        "--onnxruntime-web", metavar="PATH", type=Path,
        help="what --static computes with, where npm cannot fetch it: its archive, or the folder of the package",
    )  # fmt: skip
    args = parser.parse_args()
    try:
        check_max_error(args.max_error)
    except UserError as error:
        parser.error(str(error))
    if args.static:
        if args.share or args.port != PORT or args.language:
            parser.error("--static writes a folder: --port and --share are of the page served, --language is both")
        static(args.run, args.static, args.max_error, args.onnxruntime_web)
        return
    if args.onnxruntime_web:
        parser.error("--onnxruntime-web PATH is what --static DIR computes with")
    if not 0 <= args.port < 2**16:
        parser.error(f"--port {args.port}, but it should be 1 to 65535, or 0 for any that is free")
    demo(args.run, args.port, args.max_error, args.language, args.share)


if __name__ == "__main__":
    guarded_main(main)

"""Serves a page on which one drops, pastes or photographs a picture and sees what the run says of it."""

import importlib.util
import threading
from pathlib import Path
from typing import Literal

from imgbench.cli import add_options, check_max_error, guarded_main, run_parser
from imgbench.errors import UserError
from imgbench.language import language_of_locale
from imgbench.progress import loading
from imgbench.report.catalogue import Texts

EXAMPLES = """examples:
  python -m imgbench.demo outputs/potato/vgg16/2026-01-31_12-00-00
  python -m imgbench.demo RUN --port 8080 --max-error 0.02
  python -m imgbench.demo RUN --static page           a folder for any web space, or to be opened from the disk
"""
PORT = 7860


def demo(
    run: str | Path,
    port: int = PORT,
    max_error: float | None = None,
    language: Literal["en", "zh"] | None = None,
    share: bool = False,
    static: Path | None = None,
    onnxruntime_web: Path | None = None,
) -> None:
    """Serves the page until it is interrupted, or writes it as a folder.

    Args:
        run: a run directory, a checkpoint or an ONNX file.
        port: serve the page at this port of this machine; 0 takes any that is free.
        max_error: call pictures unsure, so that of the others at most this share, such as 0.02, is wrong, with 95 %
            confidence; otherwise the smallest share that the run can promise without leaving most unsure.
        language: of the page; otherwise that of the locale.
        share: make a public address too, through a server of Gradio's. Whoever knows it sees the page for a week, with
            training photographs if the run shows them.
        static: write instead a folder that needs no server. It can be put on any web space, or opened from the disk.
            Of a study's directory, its small file is taken.
        onnxruntime_web: what the static page computes with, where npm cannot fetch it: its archive, or the folder of
            the package.

    Raises:
        UserError: there is no such model, `max_error` cannot be promised, the port is taken, Gradio or onnxruntime-web
            is missing, or the folder cannot be written.
    """
    if static is None and importlib.util.find_spec("gradio") is None:
        raise UserError('The page needs gradio, not installed here. Mend it with: pip install "imgbench[demo]"')
    with loading():  # take seconds, and --help needs no torch
        from imgbench.publish import answers, page_with_server, static_page

    if static is not None:
        page = static_page.write_static(run, static, max_error, onnxruntime_web)
        size = sum(file.stat().st_size for file in static.iterdir() if file.is_file())
        print(f"Written  {static} ({size / 1e6:.1f} MB): open {page}, or put the folder on any web space.")
        return
    page_with_server.free_port(port)  # before anything is computed
    texts = Texts(language or language_of_locale())
    classifier = answers.Classifier(run, max_error)
    with page_with_server.serving(classifier, answers.title_of(run, texts), texts, port, share) as address:
        print(f"The page is at {address} until Ctrl-C.", flush=True)
        threading.Event().wait()


def main() -> None:
    parser = run_parser("demo", __doc__, EXAMPLES)
    add_options(parser, demo)
    args = parser.parse_args()
    try:
        check_max_error(args.max_error)
    except UserError as error:
        parser.error(str(error))
    if args.static and (args.share or args.port != PORT or args.language):
        parser.error("--static writes a folder: --port and --share are of the page served, --language is both")
    if args.onnxruntime_web and not args.static:
        parser.error("--onnxruntime-web PATH is what --static DIR computes with")
    if not 0 <= args.port < 2**16:
        parser.error(f"--port {args.port}, but it should be 1 to 65535, or 0 for any that is free")
    demo(**vars(args))


if __name__ == "__main__":
    guarded_main(main)

"""The page that Gradio serves: pictures go in by dropping, pasting or camera, and an answer to each comes out."""

import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

from PIL import Image

from imgbench.decode import IMAGE_ENDINGS
from imgbench.errors import UserError
from imgbench.evaluation.photographs import picture_data, with_heat
from imgbench.inference.acceptance import Acceptance
from imgbench.publish.answers import Answer, Classifier
from imgbench.publish.served_policy import ContentPolicy
from imgbench.report.catalogue import Texts
from imgbench.report.page import percent, templates_of

log = logging.getLogger(__name__)

HOST = "127.0.0.1"  # this machine alone
LARGEST = "200mb"  # of an upload; a photograph of 200 million pixels has 50 to 100
KEPT = 3600  # seconds, after which an upload is deleted within as many
SIDE = 288  # pixels of the picture that was asked about
MOST_NAMED = 30  # classes, at the start
# Gradio's small pictures are cut to squares, and a single one is as wide as the page, and cut by the gallery's height.
WHOLE = (
    "#pictures .thumbnail-item img { object-fit: contain; }"
    "#pictures .grid-container { grid-template-columns: repeat(auto-fill, minmax(8rem, 11rem)) !important; }"
)


def free_port(port: int) -> int:
    """The port itself, or any free one for 0.

    Raises:
        UserError: another program has it, or it is not for us.
    """
    with socket.socket() as probe:
        if os.name == "posix":  # as servers do, so that one that has just ended does not hinder the next
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"--port {port} of {HOST} cannot be used: {error.strerror}. If another program has it, perhaps "
                "another demo, end that; or name another port, such as --port 8080; --port 0 takes any."
            ) from error
        return probe.getsockname()[1]


def answers_html(answers: list[Answer], classifier: Classifier, texts: Texts) -> str:
    """The part of the page that answers."""
    selection = classifier.acceptance.selection if isinstance(classifier.acceptance, Acceptance) else None
    return (
        templates_of("imgbench.publish")
        .get_template("answers.html.jinja")
        .render(
            answers=answers,
            t=texts,
            max_error=percent(selection.max_error, 0) if selection else None,
            novelty=classifier.acceptance is not None,
            without_training=classifier.without_training,
            with_heat=with_heat,
            large=lambda image: picture_data(Image.fromarray(image), SIDE),
        )
    )


def classes_named(names: Sequence[str], texts: Texts) -> str:
    """What the page can answer; of many classes the first."""
    listed, further = " · ".join(names[:MOST_NAMED]), len(names) - MOST_NAMED
    if further > 0:
        return texts("tells_apart_more", names=listed, n=further)
    return texts("tells_apart", names=listed)


def build_page(classifier: Classifier, title: str, texts: Texts, share: bool = False) -> Any:
    """The gradio.Blocks."""
    import gradio

    def answer(pictures: list[tuple[str, str | None]] | None) -> str:
        answers = classifier.answers([path for path, _ in pictures or []])
        return answers_html(answers, classifier, texts) if answers else ""

    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        intro = [classes_named(classifier.predictor.class_names, texts), texts("try_it")]
        paragraphs = "".join(f"<p>{escape(sentence)}</p>" for sentence in intro)
        gradio.HTML(f"<h1>{escape(title)}</h1>{paragraphs}", padding=False)
        pictures = gradio.Gallery(
            label=texts("pictures"),
            type="filepath",  # as they are: decoding them is imgbench's own affair
            file_types=["image", *sorted(IMAGE_ENDINGS)],
            sources=["upload", "webcam", "clipboard"],
            columns=6,
            height="14rem",
            object_fit="contain",
            buttons=[],
            elem_id="pictures",
        )
        answered = gradio.HTML(elem_id="answers", padding=False)
        where = texts("through_gradio") if share else texts("stays_here")
        gradio.HTML(f"<p><small>{escape(where)}</small></p>", padding=False)
        pictures.change(answer, pictures, answered, api_visibility="private")
    return page


@contextmanager
def serving(classifier: Classifier, title: str, texts: Texts, port: int, share: bool = False) -> Iterator[str]:
    """Serves the page while the block runs, and yields its address.

    What visitors upload lies in a folder of its own, which is deleted at the end.

    Args:
        port: 0 takes any that is free.
        share: has Gradio make a public address too, through a server of theirs.

    Raises:
        UserError: the port cannot be used.
    """
    from starlette.middleware import Middleware

    with tempfile.TemporaryDirectory(prefix="imgbench-demo-") as uploads, _environment(GRADIO_TEMP_DIR=uploads):
        logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks itself whether it is there
        page = build_page(classifier, title, texts, share)
        _, local, public = page.launch(
            server_name=HOST,
            server_port=free_port(port),  # of a taken one, Gradio would tell with a stack trace
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            max_file_size=LARGEST,
            theme=_theme(),
            css=WHOLE,
            footer_links=[],
            run_history=False,  # it would keep the pictures in the visitor's browser
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            app_kwargs={"middleware": [Middleware(ContentPolicy, share=share)]},
        )
        try:
            if share and not public:
                log.warning("Gradio could not make a public address; is there a network?")
            yield public or local
        finally:
            page.close(verbose=False)


def _theme() -> Any:
    """Gradio's own, but for its fonts, which would come over the network."""
    from gradio.themes import Default

    fonts = ["system-ui", "-apple-system", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]
    return Default(font=fonts, font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"])


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

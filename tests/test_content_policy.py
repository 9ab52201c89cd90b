"""What a browser may do in pages of imgbench."""

from pathlib import Path

import pytest

import imgbench
from imgbench.content_policy import DOCUMENT, FOLDER, REVIEW, inline_scripts, of_gradio

PAGES = [
    path
    for path in Path(imgbench.__file__).parent.rglob("*")
    if path.name.endswith((".html", ".html.jinja")) and "<!doctype html>" in path.read_text("utf-8").lower()
]
SERVED = {"review.html"}  # its policy is a header, see test_review.py


def test_every_page_that_is_a_file_has_a_policy():
    assert {path.name for path in PAGES} >= {"report.html.jinja", "audit.html.jinja", "index.html", *SERVED}
    without = {path.name for path in PAGES if 'Content-Security-Policy" content="{{ policy }}"' not in path.read_text()}
    assert without == SERVED


@pytest.mark.parametrize("policy", [DOCUMENT, FOLDER, REVIEW, of_gradio("", 0)])
def test_what_is_not_named_is_forbidden_and_no_address_of_others_is_allowed(policy):
    assert policy.startswith("default-src 'none'; ")
    assert "form-action 'none'" in policy and "base-uri" in policy
    assert "http" not in policy and "*" not in policy


def test_documents_have_no_scripts():
    assert "script-src" not in DOCUMENT
    assert "unsafe" not in FOLDER.replace("'wasm-unsafe-eval'", "") + REVIEW


def test_scripts_of_the_template_run_and_one_that_came_with_a_text_stops_all():
    page = "<script>a()</script><script src='x.js'></script><script type='module'>b()</script>"
    assert inline_scripts(page) == ["a()", "b()"]
    allowed = of_gradio(page, 2)
    assert allowed.count("'sha256-") == 2 and "script-src 'self'" in allowed
    assert "'sha256-" not in of_gradio(page + "<script>alert(1)</script>", 2)

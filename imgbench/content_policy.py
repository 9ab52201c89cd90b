"""What a browser may do in a page of imgbench: the content policy (https://www.w3.org/TR/CSP3/) of every page.

The names of files and classes are anybody's. Pages escape them; where one forgot to, no script of theirs runs, and the
page still asks nobody but its own server for anything. Scripts are files of the page itself, or known by their hash.
"""

import base64
import hashlib
from html.parser import HTMLParser


def policy(**sources: str) -> str:
    """Allows `sources`, such as `img_src="data:"`, and nothing else."""
    named = {name.replace("_", "-"): value for name, value in sources.items()}
    allowed = {"default-src": "'none'", **named, "base-uri": "'none'", "form-action": "'none'"} | named
    return "; ".join(f"{name} {value}" for name, value in allowed.items())


# A page that is one file and has no scripts: the audit, a run's report, a comparison, the drift of photographs.
DOCUMENT = policy(img_src="data:", style_src="'unsafe-inline'")
# A page in a folder, which is opened from a disk too, where its own files are of the scheme `file:`. What computes in
# it is WebAssembly, whose loader comes from a script beside the page, and so from a `blob:`.
FOLDER = policy(img_src="data: blob:", style_src="'self' file:", script_src="'self' file: blob: 'wasm-unsafe-eval'")
REVIEW = policy(
    img_src="'self'", style_src="'self'", script_src="'self'", connect_src="'self'", frame_ancestors="'none'"
)

# Of every page that is served, beside its policy.
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class _InlineScripts(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._is_inside = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_inside = tag == "script" and "src" not in dict(attrs)
        if self._is_inside:
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self._is_inside = False

    def handle_data(self, data: str) -> None:
        if self._is_inside:
            self.found[-1] += data


def inline_scripts(page: str) -> list[str]:
    """Those that stand in a page, as text."""
    return _InlineScripts(page).found


def of_gradio(page: str, expected: int) -> str:
    """The policy of a page that Gradio made, whose inline scripts are allowed by their hashes.

    Args:
        expected: how many such scripts Gradio's template has. If the page has another number, none of them may run: one
            has come with a text.
    """
    scripts = inline_scripts(page)
    hashes = [_hash(script) for script in scripts] if len(scripts) == expected else []
    return policy(
        # Gradio makes the templates of its components by `eval`. A script that came with a text is refused still.
        script_src=" ".join(["'self'", "'unsafe-eval'", *hashes]),
        style_src="'self' 'unsafe-inline'",
        img_src="'self' data: blob:",
        media_src="'self' blob:",
        font_src="'self' data:",
        connect_src="'self'",
        manifest_src="'self'",
        base_uri="'self'",  # its own `<base href="./">`
        frame_ancestors="'none'",
    )


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"

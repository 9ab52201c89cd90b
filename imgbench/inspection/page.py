"""The audit as one self-contained page."""

import base64
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from imgbench.content_policy import DOCUMENT
from imgbench.evaluation.photographs import as_data
from imgbench.inspection.audit import Audit, brief, labels_to_look_at, pictures
from imgbench.language import probability

LABELS = 12  # that are shown


def audit_page(result: Audit, picture: Path | None) -> str:
    """HTML of an audit, with the picture of its pairs, and those of doubtful labels."""
    encoded = base64.b64encode(picture.read_bytes()).decode() if picture else None
    suspects = labels_to_look_at(result)[:LABELS]
    shown = list(zip(suspects, pictures(result, [suspect.path for suspect in suspects]), strict=True))
    return _template().render(audit=result, verdict=brief(result), picture=encoded, suspects=shown)


@cache  # compiling it takes longer than filling it in
def _template() -> Template:
    templates = Environment(loader=PackageLoader("imgbench.inspection"), autoescape=True, undefined=StrictUndefined)
    templates.globals["policy"] = Markup(DOCUMENT)  # its quotation marks are single
    templates.filters |= {"data": as_data, "probability": probability}
    return templates.get_template("audit.html.jinja")

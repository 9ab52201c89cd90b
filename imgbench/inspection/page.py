"""The audit as one self-contained page."""

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from imgbench.inspection.audit import Audit, brief


def audit_page(result: Audit, picture: Path | None) -> str:
    """HTML of an audit, with the picture of its pairs."""
    templates = Environment(loader=PackageLoader("imgbench.inspection"), autoescape=True, undefined=StrictUndefined)
    encoded = base64.b64encode(picture.read_bytes()).decode() if picture else None
    return templates.get_template("audit.html.jinja").render(audit=result, verdict=brief(result), picture=encoded)

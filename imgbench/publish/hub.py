"""Passes a model on: the exported file, its card, and both to the Hugging Face Hub."""

import importlib.util
from pathlib import Path
from typing import Any

from imgbench.errors import UserError
from imgbench.inference import parity
from imgbench.publish.card import NAME, write_card
from imgbench.publish.conformance import write_conformance
from imgbench.publish.formats import EXTRAS, convert, require_format
from imgbench.publish.paper import write_paper
from imgbench.run import Run


def share(
    path: Path,
    output: Path | None,
    images: int,
    tolerance: float,
    card: bool = False,
    repository: str | None = None,
    conformance: Path | None = None,
    paper: Path | None = None,
) -> dict[str, Any]:
    """Exports, writes the card where `card` says so, and uploads both to a named repository; prints what was done.

    Where `output` is of another format, the ONNX file is written into the run and converted. Where `conformance` names
    a directory, it gets files with their answers. Where `paper` names one, it gets what a paper needs, and nothing is
    exported unless something else asks for it.

    A run whose model is an ONNX file already is shared as it is.

    Raises:
        UserError: as of `parity.export_onnx`, `write_card`, `write_paper`, `convert` and `Hub`.
    """
    if paper is not None:
        with_model = output is not None or card or repository is not None or conformance is not None
        if with_model:
            Run.open(path)  # before anything is written; a sweep has a paper, but no model
        files = write_paper(path, paper)
        print(f"Written  {paper}: {len(files)} files; begin with methods.md, results.md and checklists")
        if not with_model:
            return {"paper": str(paper), "files": [str(file.relative_to(paper)) for file in files]}
    run = Run.open(path)
    with_card = card or repository is not None
    if with_card and path.is_file() and not run.is_kept(path):
        raise UserError(f"The card describes the tested model of {run.shown}, not {path}. Name the run: {run.shown}")
    other = output if output and output.suffix.lower() in EXTRAS else None
    if other:
        require_format(other)
        output = None
    hub = Hub(repository) if repository is not None else None  # which may end it before anything is computed
    if (with_card or conformance or other) and output is None and run.model and run.model.suffix == ".onnx":
        facts: dict[str, Any] = {"file": str(run.model), "bytes": run.model.stat().st_size}
    else:
        facts = parity.export_onnx(path, output, images, tolerance)
    if "images" in facts:
        print(parity.describe(facts))
    print(f"Written  {facts['file']} ({facts['bytes'] / 1e6:.1f} MB)")
    if other:
        found = convert(path, run, Path(facts["file"]), other, tolerance)
        print(
            f"Written  {other}: compared on {found['files']} files, largest probability difference "
            f"{found['largest_difference']:.2g}"
        )
    if conformance:
        number = write_conformance(path, Path(facts["file"]), conformance)
        print(f"Written  {conformance}: {number} files with the answers, and how a program is tested by them")
    if with_card:
        file = other or Path(facts["file"])
        place = write_card(run, file)
        print(f"Card     {place}: add what the model is meant for, and its licence")
        if hub:
            files = [file, *([file.with_suffix(".bin")] if file.suffix.lower() == ".xml" else [])]
            url = hub.upload([*files, place])
            print(f"Uploaded {url}: {', '.join(one.name for one in files)} and {NAME}, and no photograph")
    return facts


class Hub:
    """A model's repository on the Hugging Face Hub.

    Raises:
        UserError: huggingface_hub is not installed, nobody is logged in, or the name cannot be one.
    """

    def __init__(self, name: str) -> None:
        if importlib.util.find_spec("huggingface_hub") is None:
            raise UserError(
                '--push-to-hub needs huggingface_hub, not installed here. Mend it with: pip install "imgbench[hub]"'
            )
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        self.name, self.option = name, f"--push-to-hub {name}"
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise UserError(
                f"{self.option}: expected NAME or ACCOUNT/NAME of letters, digits, - _ and . ({error})"
            ) from error
        if not get_token():
            raise UserError(
                f"{self.option}: nobody is logged in. Log in with: hf auth login, or set HF_TOKEN to a token that may "
                "write, from https://huggingface.co/settings/tokens"
            )
        self.api = HfApi(library_name="imgbench")

    def upload(self, files: list[Path]) -> str:
        """Puts these files, and nothing else, into the repository, which is made, private, if there is none.

        Raises:
            UserError: there is no network, no right to write, or the Hub refuses.
        """
        from huggingface_hub import CommitOperationAdd
        from huggingface_hub.errors import HfHubHTTPError

        # Of httpx in one version of huggingface_hub, of httpx2 in another.
        no_connection: Any = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
        written = f"Nothing is lost: {files[0]} is written."
        try:
            repository = self.api.create_repo(self.name, private=True, exist_ok=True)
            self.api.create_commit(
                repository.repo_id,
                [CommitOperationAdd(file.name, str(file)) for file in files],
                commit_message="Upload a model and its card",
            )
        except HfHubHTTPError as error:
            raise self._refused(error, written) from error
        except RuntimeError as error:  # in which an upload wraps its own errors
            if isinstance(error.__cause__, HfHubHTTPError):
                raise self._refused(error.__cause__, written) from error
            raise UserError(f"{self.option}: {error.__cause__ or error}\n{written} Repeat the command.") from error
        except (no_connection, ConnectionError, TimeoutError) as error:
            raise UserError(
                f"{self.option}: {self.api.endpoint} cannot be reached, or broke off ({error}).\n{written} Repeat the "
                "command when there is a network."
            ) from error
        except ValueError as error:  # what its author wrote at the top
            raise UserError(f"{self.option}: the Hub refuses {files[-1]}: {error}") from error
        return str(repository)

    def _refused(self, error: Any, written: str) -> UserError:
        status = error.response.status_code
        reason = " ".join((error.server_message or str(error)).split())
        mend = "Log in with an account and a token that may write there: hf auth login" if status in (401, 403) else ""
        return UserError(f"{self.option}: the Hub refuses ({status}): {reason}\n{written} {mend}".rstrip())

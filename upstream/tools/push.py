"""A model directory with its card on the Hugging Face Hub."""

from __future__ import annotations

import logging
from pathlib import Path

from upstream.model.modeldir import FILES, ModelDirError, load_model


class PushError(ValueError):
    """An upload that did not happen, with the reason."""


def push(path: Path | str, repo: str, *, private: bool = False, revision: str = "main") -> str:
    """Upload the four files of a model directory in one commit, the repository made where it is new; returns its URL.

    The directory must load first; nothing else in it is uploaded. The token is what `hf auth login` stored, or
    HF_TOKEN; HF_ENDPOINT names another server. Raises PushError with the server's reason.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    path = Path(path)
    load_model(path)
    missing = [name for name in FILES if not (path / name).is_file()]
    if missing:
        raise ModelDirError(f"{path}: {', '.join(missing)} is missing; `python -m upstream import` writes a whole one")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for every request
    api = HfApi()
    try:
        made = api.create_repo(repo, private=private, exist_ok=True).repo_id
        commit = api.upload_folder(
            repo_id=made,
            folder_path=path,
            allow_patterns=list(FILES),
            revision=revision,
            commit_message=f"Upload {path.name}",
        )
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, httpx2.HTTPError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise PushError(f"{path} was not uploaded to {repo}: {reason}") from error
    return str(commit.commit_url)

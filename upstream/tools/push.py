"""Upload a model directory with its card to the Hugging Face Hub."""

from __future__ import annotations

import logging
from pathlib import Path

from upstream.errors import UpstreamError
from upstream.model.modeldir import FILES, load_model


def push(path: Path | str, repo: str, *, private: bool = False, revision: str = "main") -> str:
    """Upload the four files of a model directory in one commit; creates a new repository if needed; returns its URL.

    The directory must load first. Other files in it are not uploaded. The token comes from `hf auth login` or HF_TOKEN;
    HF_ENDPOINT names another server. Raises UpstreamError with the server's reason.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    path = Path(path)
    load_model(path)
    missing = [name for name in FILES if not (path / name).is_file()]
    if missing:
        raise UpstreamError(f"{path}: {', '.join(missing)} is missing; `python -m upstream import` writes a whole one")
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs a line for every request
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
        raise UpstreamError(f"{path} was not uploaded to {repo}: {reason}") from error
    return str(commit.commit_url)

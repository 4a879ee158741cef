"""Run S3PRL's own commands with our names registered: `python -m upstream s3prl ...` takes the same options."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence

from corpora.schema import nearest
from upstream import register
from upstream.errors import UpstreamError

USAGE = """usage: python -m upstream s3prl PROBLEM [options]     one of S3PRL's problems, as s3prl-main runs it
       python -m upstream s3prl -m MODE [options]      S3PRL's downstream runner, as run_downstream.py

The names of this toolkit are on the hub: `--build_upstream.name harness_custom --build_upstream.path_or_url DIR` for a
problem, `-u harness_custom -k DIR` for the runner. `PROBLEM -h` and `-m train -h` show S3PRL's own help."""


def launch(arguments: Sequence[str]) -> None:
    """Pass the command line to `s3prl.main`, or to `s3prl.run_downstream` if it begins with an option.

    Raises UpstreamError for a problem that S3PRL does not have, and ImportError if S3PRL is not installed.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return
    register("s3prl")
    if arguments[0].startswith("-"):
        _supply_missing_modules()
        import torch
        from s3prl import run_downstream

        # The runner stores its options as a Namespace in its checkpoints, which torch refuses since 2.6.
        with torch.serialization.safe_globals([Namespace]):
            _call(run_downstream.main, "run_downstream.py", arguments)
        return
    from s3prl import main, problem

    known = [name for name in dir(problem) if isinstance(getattr(problem, name), type)]
    if arguments[0] not in known:
        raise UpstreamError(
            f"s3prl: problem `{arguments[0]}` is unknown{nearest(arguments[0], known)} (known: {', '.join(known)})"
        )
    _call(main.main, "s3prl-main", arguments)


def _call(function: Callable[[], object], program: str, arguments: Sequence[str]) -> None:
    before = sys.argv
    sys.argv = [program, *arguments]
    try:
        function()
    finally:
        sys.argv = before


def _supply_missing_modules() -> None:
    """Supply modules that S3PRL's runner imports and newer libraries lack, for uploads and for its log."""
    import huggingface_hub

    for name in ("HfFolder", "Repository"):
        if not hasattr(huggingface_hub, name):
            setattr(huggingface_hub, name, type(name, (_NoUpload,), {}))
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        from torch.utils import tensorboard

        sys.modules["tensorboardX"] = tensorboard


class _NoUpload:
    def __init__(self, *arguments: object, **options: object) -> None:
        raise ImportError("this huggingface_hub has no Repository; upload models with `python -m upstream push`")

    save_token = __init__

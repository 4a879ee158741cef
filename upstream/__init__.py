"""How a representation is made: family, encoder, units, pre-training, model directories, and the doors to
them.
"""

from __future__ import annotations

DOORS = ("s3prl", "transformers")


def register(*doors: str) -> list[str]:
    """Make our models known to other libraries; returns the doors that are open now.

    `s3prl` puts the names of `upstream/harness/hubconf.py` and of `upstream/baselines.yaml` on `s3prl.hub` (S3PRL
    and ESPnet look them up there); `transformers` puts the log-mel configuration and model on the auto classes.
    Without arguments both are opened, S3PRL only where it is installed (importing it takes seconds). Calling it again
    changes nothing. Every new process needs its own call: names registered in a parent do not reach spawned workers.
    Raises ValueError for an unknown door and ImportError when a door that was asked for has no library.
    """
    from importlib.util import find_spec

    for door in doors:
        if door not in DOORS:
            raise ValueError(f"register: door `{door}` is unknown; choose from {', '.join(DOORS)}")
    wanted = doors or tuple(door for door in DOORS if find_spec(door) is not None)
    if "transformers" in wanted:
        _register_transformers()
    if "s3prl" in wanted:
        _register_s3prl()
    return [door for door in DOORS if door in wanted]


def _register_transformers() -> None:
    from transformers import AutoConfig, AutoModel

    from upstream.model.encoder import LogMelHubertConfig, LogMelHubertModel

    AutoConfig.register(LogMelHubertConfig.model_type, LogMelHubertConfig, exist_ok=True)
    AutoModel.register(LogMelHubertConfig, LogMelHubertModel, exist_ok=True)


def _register_s3prl() -> None:
    try:
        import s3prl.hub
    except ImportError as error:
        raise ImportError(
            f"S3PRL cannot be imported ({error}); install the pinned stack: pip install -r requirements.txt"
        ) from error

    from upstream.harness import baselines, hubconf

    ours = {name: entry for name, entry in vars(hubconf).items() if callable(entry) and not name.startswith("_")}
    for name, entry in {**ours, **baselines.entries(s3prl.hub)}.items():
        setattr(s3prl.hub, name, entry)

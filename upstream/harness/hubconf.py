"""The names under which S3PRL and ESPnet find HArnESS models.

S3PRL collects every public callable of this file. Its callers add options of their own (`refresh`, `model_config`);
`refuse` reports every other option, because ignoring it would hide a spelling mistake.
"""

from upstream.names import MODELS as _MODELS
from upstream.names import SHIPPED as _SHIPPED
from upstream.shipped import shipped as _shipped

from .expert import UpstreamExpert as _UpstreamExpert
from .locate import download as _download
from .locate import is_url as _is_url
from .locate import named as _named
from .locate import refuse as _refuse


def harness_local(ckpt, refresh=False, **options):
    """The model directory `ckpt` on this machine."""
    _refuse("harness_local", options)
    if _is_url(ckpt):
        raise ValueError(f"harness_local: {ckpt} is a URL; use harness_url or harness_custom")
    return _UpstreamExpert(ckpt)


def harness_url(ckpt, refresh=False, sha256sums=None, **options):
    """The model directory under the base URL `ckpt`; downloaded once, checked against its SHA-256 sums."""
    _refuse("harness_url", options, "sha256sums")
    return _UpstreamExpert(_download(ckpt, sha256sums=sha256sums, refresh=refresh))


def harness_custom(ckpt=None, refresh=False, sha256sums=None, **options):
    """A model directory: a path or a base URL."""
    if ckpt is None:
        raise ValueError(
            "harness_custom needs a model directory: S3PRLUpstream('harness_custom', path_or_url=DIR), in "
            "ESPnet frontend_conf: {upstream: harness_custom, path_or_url: DIR}, in S3PRL's commands "
            "-u harness_custom -k DIR"
        )
    _refuse("harness_custom", options, "sha256sums")
    if _is_url(ckpt):
        return harness_url(ckpt, refresh=refresh, sha256sums=sha256sums)
    return harness_local(ckpt)


def _entry(name, text, place, find):
    def load(ckpt=None, refresh=False, **options):
        _refuse(name, options)
        return _UpstreamExpert(find(name) if ckpt is None else ckpt)

    load.__name__ = load.__qualname__ = name
    load.__doc__ = f"{text}: the model directory `{name}` {place}."
    return load


# One entry for each model of a recipe: `harness_l`, `harness_st`, ...
globals().update({name: _entry(name, text, "under $HARNESS_MODELS", _named) for name, text in _MODELS.items()})
# Models that ship with the toolkit.
globals().update({name: _entry(name, text, "in this package", _shipped) for name, text in _SHIPPED.items()})

"""Importing S3PRL without what it says, and without the network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec


@contextmanager
def quiet() -> Iterator[None]:
    """S3PRL's import prints deprecations of others, and with ESPnet comes `g2p_en`, which waits for two data sets from
    the network that nothing here needs: nothing is shown, and NLTK downloads nothing meanwhile."""
    if find_spec("nltk") is None:
        with _silent():
            yield
        return
    import nltk

    download = nltk.download
    nltk.download = lambda *args, **kwargs: False  # what it returns where there is no network
    try:
        with _silent():
            yield
    finally:
        nltk.download = download


@contextmanager
def _silent() -> Iterator[None]:
    with open(os.devnull, "w") as sink, redirect_stdout(sink), redirect_stderr(sink):
        yield

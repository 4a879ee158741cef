"""Probes of a frozen or fine-tuned upstream: labelled data, stored features, heads, training.

The modules `probe`, `recognition`, `classification`, `heads` and `train` import S3PRL, which takes seconds. Import them
inside functions, within `quiet_import`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec


@contextmanager
def quiet_import() -> Iterator[None]:
    """Silence the import of S3PRL, and block the download that comes with it.

    S3PRL's import prints deprecation warnings of other packages. Where ESPnet is installed it also imports `g2p_en`,
    which downloads two NLTK data sets that nothing here needs.
    """
    nltk = None
    if find_spec("nltk") is not None:
        import nltk
    download = nltk and nltk.download
    if nltk:
        nltk.download = lambda *args, **kwargs: False  # the answer of NLTK where there is no network
    try:
        with open(os.devnull, "w") as sink, redirect_stdout(sink), redirect_stderr(sink):
            yield
    finally:
        if nltk:
            nltk.download = download

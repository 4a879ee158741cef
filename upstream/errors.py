"""The error that every command of `python -m upstream` reports in one line."""

from __future__ import annotations


class UpstreamError(ValueError):
    """An unusable request, model, unit file or training run. The message says what is wrong, where, and the remedy."""

"""The error that every command of `python -m upstream` reports in one line."""

from __future__ import annotations


class UpstreamError(ValueError):
    """An unusable request, model, unit file or training run; the message names problem, place and remedy."""

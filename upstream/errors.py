"""The error that every command of `python -m upstream` reports in one line."""

from __future__ import annotations


class UpstreamError(ValueError):
    """A request, model, unit file or training run that is wrong; the message says what, where, and what to do."""

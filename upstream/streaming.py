"""Encode speech while it arrives: `Stream(model)` takes samples in pieces of any size and gives frames."""

from upstream.model.streaming import Stream

__all__ = ["Stream"]

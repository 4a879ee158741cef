"""Measure and use upstreams: probes for ASR, SER and DID, grids of probes, scores, reports, trained heads on files."""


class DownstreamError(ValueError):
    """Data, options or results that cannot be used; the message names the place and says what to do."""

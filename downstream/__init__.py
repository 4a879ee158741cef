"""How a representation is measured: ASR, SER and DID probes on frozen upstreams, metrics, benchmark, report."""


class DownstreamError(ValueError):
    """Data, options or results that cannot be used; the message says where, what is wrong and what to do."""

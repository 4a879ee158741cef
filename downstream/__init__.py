"""How a representation is measured: ASR, SER and DID probes on frozen upstreams, metrics, benchmark, report."""

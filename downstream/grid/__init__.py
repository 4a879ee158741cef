"""Many probes: upstreams x tasks x seeds, in several processes."""

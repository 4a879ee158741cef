"""Grids of probes, upstreams x tasks x seeds: plan, estimate, run in several processes."""

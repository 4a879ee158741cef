"""Probes of a frozen or fine-tuned upstream: data, feature cache, heads, training."""

"""Metrics, intervals and the results table."""

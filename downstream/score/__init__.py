"""Metrics, their intervals and tests, and the table of results."""

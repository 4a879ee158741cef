"""One module per public corpus: `INFO` and `prepare()`."""

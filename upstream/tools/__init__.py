"""Tools around a model: cost, similarity, upload, conversion."""

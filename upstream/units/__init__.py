"""Discrete units: features, PCA, k-means, labels."""

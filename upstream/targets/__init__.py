"""Targets of pre-training: features -> optional PCA -> k-means -> units, one integer per 20 ms frame."""

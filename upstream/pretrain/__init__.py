"""Pre-training: data, objective, initialisation, training."""

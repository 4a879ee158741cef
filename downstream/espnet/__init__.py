"""Fine-tuned ASR on ESPnet: our data directories in ESPnet's form, its own commands with our names, scores."""

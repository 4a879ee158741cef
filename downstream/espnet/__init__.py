"""Fine-tuned ASR on ESPnet: inputs in ESPnet's form, its own commands with our upstreams, scores."""

"""Checkpoints that others wrote (Transformers, torchaudio, ESPnet, fairseq) as model directories."""

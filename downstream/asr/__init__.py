"""Protocols of speech recognition (ASR)."""

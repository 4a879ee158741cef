"""Protocols of emotion recognition (SER)."""

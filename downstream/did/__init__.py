"""Protocols of dialect identification (DID)."""

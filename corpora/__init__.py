"""What goes in: audio, Kaldi data directories, Arabic text, one module per public corpus, and synthetic speech.

Nothing here imports torch, S3PRL or ESPnet.
"""

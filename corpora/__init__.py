"""Training and test data: audio, Kaldi data directories, Arabic text, public corpora and synthetic speech.

No module here imports torch, S3PRL or ESPnet.
"""

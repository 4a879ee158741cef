"""Training and test data: audio, Kaldi data directories, Arabic text, public corpora and synthetic speech.

No module here imports torch, S3PRL or ESPnet.
"""

__version__ = "0.1.0"  # of the toolkit; pyproject.toml reads it here

SAMPLE_RATE = 16000  # Hz, of all audio that is trained on or scored
MIN_SAMPLES = 400  # one window of 25 ms: shorter audio has no frame

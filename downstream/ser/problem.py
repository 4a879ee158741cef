"""Speech emotion recognition on S3PRL's SuperbER; imports S3PRL, so import it late."""

from s3prl.problem.common.superb_er import SuperbER

from downstream.probe.classification import ClassificationMixin


class SpeechEmotion(ClassificationMixin, SuperbER):
    """SuperbER on Kaldi data directories with `utt2emotion`."""

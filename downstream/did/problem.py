"""Dialect identification on S3PRL's SuperbSID; imports S3PRL, so import it late."""

from s3prl.problem.common.superb_sid import SuperbSID

from downstream.probe.classification import ClassificationMixin


class DialectIdentification(ClassificationMixin, SuperbSID):
    """SuperbSID (utterance classification) on Kaldi data directories with `utt2dialect`."""

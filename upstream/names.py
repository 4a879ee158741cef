"""Names of the family's models, and of the upstreams that they are compared with."""

from __future__ import annotations

TEACHER = "harness_l"
TEACHER_ITERATION_1 = "harness_l_it1"
STUDENTS = ("harness_s", "harness_st")
RANDOM = "random_l"  # HL with its initial weights
FBANK = "fbank"

# Every model directory that a recipe exports under its models folder, and S3PRL's name for it.
MODELS = {
    TEACHER: "HL, the large teacher after its second iteration",
    TEACHER_ITERATION_1: "HL after its first iteration",
    "harness_s": "HS, the shallow student",
    "harness_st": "HST, the shallow and thin student",
    RANDOM: "HL with its initial random weights, the control of every comparison",
}
# Models that ship with the toolkit (upstream/shipped.py), and S3PRL's names for them.
SHIPPED = {
    "harness_open": "the open encoder of width 512: layers of Whisper base, fine-tuned on recitations and keywords",
    "harness_open_tiny": "HST of open_arabic_70h, fine-tuned on recitations and keywords with harness_open as teacher",
}
# The models of a recipe by their names during training.
EXPORT_NAMES = {"hl_it1": TEACHER_ITERATION_1, "hl_it2": TEACHER, "hs": "harness_s", "hst": "harness_st"}
# Upstreams without pre-training: the lower reference of every comparison.
BASELINES = (FBANK, RANDOM)
# The upstreams of a benchmark by default, in the order of every table.
STANDARD_UPSTREAMS = (FBANK, RANDOM, TEACHER_ITERATION_1, TEACHER, *STUDENTS)
# Published encoders that a recipe reads from local folders (`--hubert PATH`, `--xlsr PATH`).
LOCAL_UPSTREAMS = ("hubert", "xlsr")

"""Transformers' ModelTesterMixin on small models of the family; `test_transformers.py` copies it into their suite."""

from __future__ import annotations

import unittest

import torch
from transformers import HubertForCTC, HubertForSequenceClassification, HubertModel

import upstream
from upstream.model.encoder import LogMelHubertModel, frame_count, hubert_config
from upstream.model.family import Geometry
from upstream.model.heads import LogMelHubertForCTC, LogMelHubertForSequenceClassification

from .test_modeling_common import ModelTesterMixin, floats_tensor

upstream.register("transformers")

SAMPLES = 1600
NO_TOKENS = "a model of audio has no token embeddings"


class Tester:
    """What the mixin asks of a model: a configuration and inputs."""

    def __init__(self, parent: unittest.TestCase, front_end: str) -> None:
        self.parent, self.front_end = parent, front_end
        self.batch_size, self.num_hidden_layers, self.hidden_size, self.num_attention_heads = 3, 2, 16, 2
        self.seq_length = self.encoder_seq_length = frame_count(SAMPLES)
        self.is_training = False

    def get_config(self):
        geometry = Geometry(
            "tiny", self.num_hidden_layers, self.hidden_size, self.num_attention_heads, 20, self.front_end,
            conv_channels=8, pos_conv_kernel=4, pos_conv_groups=2,
        )  # fmt: skip
        config = hubert_config(geometry)
        config.vocab_size, config.num_labels = 32, 3
        return config

    def prepare_config_and_inputs_for_common(self):
        values = floats_tensor([self.batch_size, SAMPLES], scale=1.0)
        mask = torch.ones(self.batch_size, SAMPLES, dtype=torch.long)
        return self.get_config(), {"input_values": values, "attention_mask": mask}


class Common(ModelTesterMixin):
    """The mixin, without the tests that need token embeddings."""

    front_end = "waveform"

    def setUp(self) -> None:
        self.model_tester = Tester(self, self.front_end)

    @unittest.skip(NO_TOKENS)
    def test_inputs_embeds(self):
        pass

    @unittest.skip(NO_TOKENS)
    def test_resize_tokens_embeddings(self):
        pass

    @unittest.skip(NO_TOKENS)
    def test_model_get_set_embeddings(self):
        pass


class TestWaveform(Common, unittest.TestCase):
    """HL's front end: Transformers' own classes with our configuration."""

    @unittest.skip("asks for attention maps, which SDPA, the configuration's choice, does not give")
    def test_retain_grad_hidden_states_attentions(self):
        pass

    all_model_classes = (HubertModel, HubertForCTC, HubertForSequenceClassification)


class TestLogMel(Common, unittest.TestCase):
    """The students' front end: our classes."""

    front_end = "logmel"
    has_attentions = False
    all_model_classes = (LogMelHubertModel, LogMelHubertForCTC, LogMelHubertForSequenceClassification)

"""Write a CTC recogniser, model and head, as one directory for Transformers and its speech recognition pipeline.

The directory holds config.json, model.safetensors (encoder and head), preprocessor_config.json, the characters as
vocab.json with the settings of their tokenizer, and README.md. It loads after `upstream.register`.
"""

from __future__ import annotations

import copy
from pathlib import Path

from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

from corpora.audio import SAMPLE_RATE
from corpora.files import atomic_dir, write_json, write_text
from downstream import DownstreamError
from downstream.asr.recogniser import BLANK, check_weights, load_head
from upstream.model.encoder import LogMelHubertModel
from upstream.model.heads import LogMelHubertForCTC
from upstream.model.modeldir import CARD_KEY, load_model, model_sha256

PAD, DELIMITER, UNKNOWN = "<pad>", "|", "<unk>"


def vocabulary(characters: list[str]) -> dict[str, int]:
    """Characters of a head as the tokens of `Wav2Vec2CTCTokenizer`: the blank is its padding, the space `|`.

    Raises DownstreamError where a token would stand for two characters.
    """
    tokens = {PAD if i == BLANK else DELIMITER if text == " " else text: i for i, text in enumerate(characters)}
    if len(tokens) != len(characters) or any(len(token) != 1 for token, i in tokens.items() if i != BLANK):
        raise DownstreamError(
            f"characters {characters} must differ, have one letter each, and not contain `{DELIMITER}`"
        )
    return tokens


def export_recogniser(model: Path, head: Path, out: Path) -> Path:
    """Write the Transformers directory `out`, whole or not at all; an older one is replaced.

    Raises DownstreamError or ValueError if the head was trained on another encoder, or is no CTC recogniser.
    """
    check_weights(head, model_sha256(model), model, "--model")
    encoder = load_model(model)
    if not isinstance(encoder, LogMelHubertModel):
        raise DownstreamError(f"{model}: only recognisers with a log-mel front end can be exported")
    recogniser = load_head(encoder, head)
    tokens = vocabulary(recogniser.characters)

    config = copy.deepcopy(encoder.config)
    config.vocab_size, config.pad_token_id = len(tokens), BLANK
    config.bos_token_id = config.eos_token_id = None
    config.do_normalize, config.final_dropout = False, 0.0  # `Recogniser` reads samples as they are
    config.ctc_zero_infinity, config.ctc_loss_reduction = True, "mean"
    whole = LogMelHubertForCTC(config)
    whole.hubert.load_state_dict(encoder.state_dict())
    if recogniser.stride > 1:  # the pipeline reads every frame, and only the first of each pair was trained
        whole.hubert.upsampler.repeat_first()
    whole.lm_head.load_state_dict(recogniser.head.state_dict())

    with atomic_dir(Path(out)) as folder:
        whole.save_pretrained(folder)
        write_json(folder / "vocab.json", tokens)
        tokenizer = Wav2Vec2CTCTokenizer(
            str(folder / "vocab.json"), unk_token=UNKNOWN, pad_token=PAD, word_delimiter_token=DELIMITER,
            bos_token=None, eos_token=None,
        )  # fmt: skip
        extractor = Wav2Vec2FeatureExtractor(
            feature_size=1, sampling_rate=SAMPLE_RATE, do_normalize=False, return_attention_mask=True
        )
        Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
        extractor.save_pretrained(folder)  # preprocessor_config.json, which `load_model` reads
        (folder / "model.safetensors").chmod((folder / "config.json").stat().st_mode)
        card = getattr(config, CARD_KEY, None) or {}
        write_text(folder / "README.md", _readme(str(card.get("name", "recogniser"))))
    return Path(out)


def _readme(name: str) -> str:
    return f"""---
license: apache-2.0
language: ar
pipeline_tag: automatic-speech-recognition
---
# {name}, Arabic speech recognition

```python
import upstream
from transformers import pipeline
upstream.register("transformers")
recognise = pipeline("automatic-speech-recognition", "THIS_FOLDER", chunk_length_s=20)
print(recognise("talk.wav")["text"])
```
"""

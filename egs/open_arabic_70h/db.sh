# Folders of the recipe's speech. Write them here, or set them in the environment, which overrides this file. `downloads`
# fetches ARABIC_SPEECH_COMMANDS, BAVED, EVERYAYAH or FREE_SPOKEN_DIGITS into downloads/.
# shellcheck shell=bash

RECITATIONS=${RECITATIONS:-}                        # <reciter>/SSSAAA.mp3 (chapter, verse): the training reciters
EVERYAYAH=${EVERYAYAH:-}                            # quran.json and <reciter>/SSSAAA.mp3: reciters who are only tested
ARABIC_SPEECH_COMMANDS=${ARABIC_SPEECH_COMMANDS:-}  # Arabic Speech Commands: 40 keywords by 30 speakers
FREE_SPOKEN_DIGITS=${FREE_SPOKEN_DIGITS:-}          # Free Spoken Digits: English digits at 8 kHz
SPEECH_TO_INTENT=${SPEECH_TO_INTENT:-}              # English recordings, such as Picovoice's speech-to-intent
COMMON_VOICE_VOICES=${COMMON_VOICE_VOICES:-}        # recordings of many voices, of any language
BAVED=${BAVED:-}                                    # Basic Arabic Vocal Emotions Dataset: tested by folds
ADI5=${ADI5:-}                                      # ADI-5, or a part of it: tested by folds

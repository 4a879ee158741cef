# Folders of the corpora, each in its publisher's layout (`python -m corpora NAME --help` shows it). Write them here, or
# set them in the environment, which overrides this file. All recipes link to this file. If a recipe needs other folders,
# replace its link by a file.
#
# `downloads` fetches a corpus into downloads/: ARABIC_SPEECH_COMMANDS, BAVED, EVERYAYAH or FREE_SPOKEN_DIGITS.
# shellcheck shell=bash

ADI17=${ADI17:-}                                    # ADI-17: seventeen Arabic dialects from YouTube (MGB-5)
ADI20=${ADI20:-}                                    # ADI-20
ADI5=${ADI5:-}                                      # ADI-5
ANAD=${ANAD:-}                                      # Arabic Natural Audio Dataset
ARABIC_SPEECH_COMMANDS=${ARABIC_SPEECH_COMMANDS:-}  # Arabic Speech Commands: 40 keywords by 30 speakers
ARABIC_SPEECH_CORPUS=${ARABIC_SPEECH_CORPUS:-}      # Arabic Speech Corpus: one speaker, 48 kHz, diacritised
ARVOICE=${ARVOICE:-}                                # ArVoice: Modern Standard Arabic, several speakers
ARZEN=${ARZEN:-}                                    # ArzEn: Egyptian Arabic mixed with English, interviews
BAVED=${BAVED:-}                                    # Basic Arabic Vocal Emotions Dataset
CALLHOME_EGYPTIAN=${CALLHOME_EGYPTIAN:-}            # CALLHOME Egyptian Arabic (LDC)
CASABLANCA=${CASABLANCA:-}                          # Casablanca: eight Arabic dialects from television
CLARTTS=${CLARTTS:-}                                # ClArTTS: Classical Arabic, one speaker
COMMON_VOICE=${COMMON_VOICE:-}                      # Common Voice, Arabic
EAED=${EAED:-}                                      # Egyptian Arabic Emotional Dataset
EVERYAYAH=${EVERYAYAH:-}                            # EveryAyah: recitation of the Quran, one file a verse
EYASE=${EYASE:-}                                    # Egyptian Arabic Speech Emotion
FLEURS=${FLEURS:-}                                  # FLEURS, Arabic (Egypt)
FREE_SPOKEN_DIGITS=${FREE_SPOKEN_DIGITS:-}          # Free Spoken Digits: English digits at 8 kHz
GALE=${GALE:-}                                      # GALE Phase 2 Arabic broadcast conversations and news (LDC)
GIGASPEECH=${GIGASPEECH:-}                          # GigaSpeech: English audiobooks, podcasts and video
IWSLT22_TUNISIAN=${IWSLT22_TUNISIAN:-}              # IWSLT 2022 Tunisian telephone speech (LDC)
KSUEMOTIONS=${KSUEMOTIONS:-}                        # King Saud University Emotions
LIBRISPEECH=${LIBRISPEECH:-}                        # LibriSpeech: read English books
MADIS5=${MADIS5:-}                                  # MADIS 5: dialects of five regions
MASC=${MASC:-}                                      # MASC: Massive Arabic Speech Corpus
MEDIASPEECH=${MEDIASPEECH:-}                        # MediaSpeech, Arabic (OpenSLR 108)
MGB2=${MGB2:-}                                      # MGB-2: Arabic broadcasts of Al Jazeera
MGB3=${MGB3:-}                                      # MGB-3: Egyptian speech from YouTube, four references
MGB5=${MGB5:-}                                      # MGB-5: Moroccan speech from YouTube, four references
MIXAT=${MIXAT:-}                                    # Mixat: Emirati Arabic mixed with English
MTEDX=${MTEDX:-}                                    # Multilingual TEDx, Arabic (OpenSLR 100)
NADI=${NADI:-}                                      # NADI 2025 / Casablanca as dialect identification
OMANI=${OMANI:-}                                    # Omani speech: television and video
QASR=${QASR:-}                                      # QASR: QCRI's corpus of Al Jazeera broadcasts
SADA=${SADA:-}                                      # SADA: Saudi Audio Dataset for Arabic
SERTUS=${SERTUS:-}                                  # SERTUS: emotions in spontaneous Tunisian speech
TEDLIUM3=${TEDLIUM3:-}                              # TED-LIUM 3 (legacy division): English talks
TUNSWITCH=${TUNSWITCH:-}                            # TunSwitch: Tunisian Arabic, alone and mixed
VERSE_CLIPS=${VERSE_CLIPS:-}                        # Verse clips: recitations for evaluation
VOXPOPULI=${VOXPOPULI:-}                            # VoxPopuli, transcribed

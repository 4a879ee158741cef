# Folders of the corpora, in the layout that their publishers use. Write them here, or set them in the environment,
# which wins. `downloads` fetches the corpus from its publisher into downloads/. Relative paths count from the root.
# shellcheck shell=bash

ARABIC_SPEECH_COMMANDS=${ARABIC_SPEECH_COMMANDS:-}  # dataset/<keyword>/, train.csv, val.csv, test.csv
BAVED=${BAVED:-}                                    # 0/ ... 6/
EVERYAYAH=${EVERYAYAH:-}                            # <reciter>/SSSAAA.mp3, quran.json
FREE_SPOKEN_DIGITS=${FREE_SPOKEN_DIGITS:-}          # recordings/<digit>_<speaker>_<index>.wav

"""A small tree of every corpus in its publisher's layout. `tree(name)` writes one and returns its folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from corpora import registry
from corpora.datasets import adi5, eaed, nadi
from corpora.text import to_buckwalter


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def parquet(path: Path, rows: list[dict]) -> Path:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    audio = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    arrays = {
        name: pyarrow.array(values, audio) if name == "audio" else pyarrow.array(values)
        for name, values in columns.items()
    }
    pyarrow.parquet.write_table(pyarrow.table(arrays), path)
    return path


def audio_cell(seed: int, rate: int = 16000, container: str = "WAV") -> dict:
    buffer = io.BytesIO()
    samples = 0.1 * np.random.default_rng(seed).standard_normal(int(0.3 * rate))
    soundfile.write(buffer, samples, rate, format=container)
    return {"bytes": buffer.getvalue(), "path": None}


# Dialects

VIDEOS = ["-a_bcDEfgh1", "_FBO2f3kW5Q", "zz9ZZ-zz_zz", "0123456789A"]  # YouTube ids hold hyphens and underscores


def _adi5(root: Path, make: SimpleNamespace) -> Path:
    seed = 0
    for place, dialect in enumerate(adi5.DIALECTS):
        names = {
            "train": [f"{dialect}{number:06d}.wav" for number in range(1, 6)],
            "dev": [f"{md5(f'd{place}{n}')}__{n}.10_{n}.50.wav" for n in range(2)],
            "test": [f"{md5(f't{place}{n}')}_{'MF'[n]}_{n:04d}_{n}.10_{n}.50.wav" for n in range(2)],
        }
        for split, own in names.items():
            for name in own:
                seed += 1
                make.clip(root / split / "wav" / dialect / name, seed)
    return root


def _adi17(root: Path, make: SimpleNamespace) -> Path:
    """Folders of segments: the dialects are folders in train, label lists elsewhere."""
    seed = 0
    for dialect, video in {"EGY": VIDEOS[0], "YEM": VIDEOS[1]}.items():
        for start in (100, 200, 300):
            seed += 1
            name = f"{video}_{start:06d}-{start + 20:06d}.wav"
            make.clip(root / "train_segments" / dialect / video / name, seed)
    for split, video in (("dev", VIDEOS[2]), ("test", VIDEOS[3])):
        lines = ["id label"]
        for place, dialect in enumerate(("EGY", "YEM")):
            seed += 1
            utt_id = f"{video}_{place * 100:06d}-{place * 100 + 20:06d}"
            make.clip(root / f"{split}_segments" / f"{utt_id}.wav", seed)
            lines.append(f"{utt_id} {dialect}")
        (root / f"adi17_official_{split}_label.txt").write_bytes("\r\n".join([*lines, ""]).encode())
    return root


def _adi20(root: Path, make: SimpleNamespace) -> Path:
    make.clip(root / "ADI17/train/-a_bcDEfgh1.wav", 1, seconds=1.0)
    make.clip(root / "TuniSwitch/ab-c.wav", 2, seconds=0.5, rate=22050)
    make.clip(root / "TuniSwitch/ab.wav", 3, seconds=0.5)
    make.clip(root / "MSA/msa1.wav", 4)
    rows = {
        "train": [
            "-a_bcDEfgh1_000010-000030,$data_root/ADI17/train/-a_bcDEfgh1.wav,EGY,0.2,1600,4800",
            "-a_bcDEfgh1_000050-000080,$data_root/ADI17/train/-a_bcDEfgh1.wav,EGY,0.3,8000.0,12800.0",
            "ab-c,/home/x/TuniSwitch/ab-c.wav,TUN,0.5,0,8000",
            "ab_000000-000050,/home/x/TuniSwitch/ab.wav,TUN,0.5,0,8000",
        ],
        "dev": ["msa1_000000-000020,MSA/msa1.wav,MSA,0.2,0,3200"],
    }
    header = "ID,wav,dialect,duration,start,end"
    for split, own in rows.items():
        (root / f"{split}.csv").write_bytes("\ufeff".encode() + "\r\n".join([header, *own, ""]).encode())
    return root


def _nadi(root: Path, make: SimpleNamespace) -> Path:
    forms = (16000, "WAV"), (44100, "FLAC")
    for place, country in enumerate(nadi.COUNTRIES):
        for part, size in (("validation", 6), ("test", 2)):
            rows = [
                {
                    "audio": audio_cell(1000 * place + 100 * (part == "test") + n, *forms[n % 2]),
                    "seg_id": f"seg {part} {n}",
                    "transcription": "مرحبا",
                }
                for n in range(size)
            ]
            parquet(root / country / f"{part}-00000-of-00001.parquet", rows)
    return root


# Emotion


def _anad(root: Path, make: SimpleNamespace, *, surprised: tuple[int, ...] = (3, 4, 6)) -> Path:
    lines = ["name,ZCR,Emotion "]
    for video in range(1, 9):
        emotion = "surprised" if video in surprised else ("happy", "angry")[video % 2]
        part = f"1sec_segmented_part{1 + video % 3}"
        for unit in range(1, 4):
            name = f"V{video}_1 ({unit}).wav"
            make.clip(root / part / part / name, 10 * video + unit, seconds=0.1, rate=44100)
            lines.append(f"{name}',0.1,{emotion}")
        make.clip(root / f"V{video}.wav", 500 + video)  # the whole call is no unit
    (root / "ANAD.csv").write_bytes(("\r\n".join(lines) + "\r\n").encode())
    twin = root / "1sec_segmented_part3/1sec_segmented_part3/V1_1 (1).wav"
    shutil.copy(root / "1sec_segmented_part2/1sec_segmented_part2/V1_1 (1).wav", twin)
    return root


def _eaed(root: Path, make: SimpleNamespace) -> Path:
    actors = {
        "Series A": ["NellyKarim", "Nelly", "Amr Saad", "MonaZaki"],
        "Series B": ["NellyKarim", "Yousra", "HendSabry"],
    }
    seed = 0
    for series, own in actors.items():
        for actor in own:
            for emotion in eaed.EMOTIONS:
                seed += 1
                spelling = "Happy" if emotion == "happy" and actor == "Yousra" else emotion
                make.clip(root / series / actor / f"{actor}_{spelling}_ 01.wav", seed, seconds=0.1, rate=44100)
    # a file in the folder of another actor: its name counts
    (root / "Series B/Yousra/Yousra_sad_ 01.wav").rename(root / "Series B/HendSabry/Yousra_sad_ 01.wav")
    return root


def _eyase(root: Path, make: SimpleNamespace) -> Path:
    """Some files of Female02 have the names of Female01, as in the publisher's copy."""
    for place, folder in enumerate(("Female01", "Female02", "Female03", "Male01", "Male02", "Male03")):
        for n, emotion in enumerate(("ang", "hap", "neu", "sad")):
            for take in range(2):
                prefix = "fm01" if (folder, emotion) == ("Female02", "sad") else f"{folder[0].lower()}m{folder[-2:]}"
                name = f"{prefix}_{emotion} ({take + 1}).wav"
                make.clip(root / folder / name, 100 * place + 10 * n + take, seconds=0.1, rate=44100)
    return root


def _ksuemotions(root: Path, make: SimpleNamespace) -> Path:
    """Six speakers say the same two sentences in every emotion."""
    for speaker in range(1, 7):
        for emotion in range(6):
            for sentence in (1, 2):
                name = f"D05E0{emotion}P1{speaker:02d}S{sentence:02d}T01.flac"
                seed = 100 * speaker + 10 * emotion + sentence
                make.clip(root / "data/SPEECH/Phase_1" / f"P1{speaker:02d}" / name, seed, seconds=0.1)
    return root


def _sertus(root: Path, make: SimpleNamespace) -> Path:
    """Seven blocks of twenty numbers; six recordings of each are there, and an augmented copy."""
    labels = ("angry", "disgusted", "joy", "neutral", "sad", "satisfied")
    lines = ["Name,Label"]
    for block in range(7):
        for place, label in enumerate(labels):
            name = f"EMO{20 * block + 3 * place + 1}"
            lines.append(f"{name}.wav, {label}")
            make.clip(root / ("" if block < 2 else "Samples") / f"{name}.wav", 10 * block + place, rate=44100)
        make.clip(root / f"Samples/{name}_aug-shift.wav", 900 + block, rate=44100)
        lines.append(f"EMO{20 * block + 20}.wav,sad")  # the repository lacks the recording
    shutil.copy(root / "EMO1.wav", root / "Samples/EMO1.wav")
    (root / "Categorical annotation.csv").write_bytes("\r\n".join([*lines, ""]).encode("utf-8-sig"))
    (root / "Categorical annotation+augmentation.csv").write_text("Name,Label\nEMO1_aug-shift.wav,angry\n")
    return root


# Arabic ASR


def _arabic_speech_corpus(root: Path, make: SimpleNamespace) -> Path:
    root = root / "arabic-speech-corpus"
    for folder, names in (("", ("ARA NORM  0002", "ARA NORM  0003")), ("test set", ("0001",))):
        for name in names:
            make.noise(root / folder / f"wav/{name}.wav", 0.3, 48000)
        lines = "".join(f'"{name}.wav" "waraj~aHa Alt~aqoriyru - {{"\r\n' for name in names)
        (root / folder / "orthographic-transcript.txt").write_bytes(lines.encode("utf-8-sig"))
        spelt = "phonetic-transcript.txt" if folder else "phonetic-transcipt.txt"
        (root / folder / spelt).write_text("".join(f'"{name}.wav" "w a r a j j"\n' for name in names))
    return root


CALLHOME = """# a comment
0.10 0.60 A: +izzayyak ya {laugh} &maHmud

0.50 1.10 B1: %ah <English okay> ((mish fahim))
 // bass kwayyis
1.10 1.30 A: [[noise]] {breath}
"""


def _callhome_egyptian(root: Path, make: SimpleNamespace) -> Path:
    draw = np.random.default_rng(0)
    for spoken, written in (("train", "train"), ("devtest", "devtest"), ("evltest", "evaltest")):
        audio = root / "callhome/arabic" / spoken / f"ar_{spoken}_1.sph"
        audio.parent.mkdir(parents=True)
        # Side B is ten times louder.
        samples = draw.standard_normal((12000, 2)) * (0.01, 0.1)
        soundfile.write(audio, samples, 8000, format="NIST", subtype="ULAW")
        text = root / "callhome_arabic_trans_970711/transcrp" / written / "roman" / f"ar_{spoken}_1.txt"
        text.parent.mkdir(parents=True)
        text.write_bytes(CALLHOME.replace("\n", "\r\n").encode())
    return root


def _casablanca(root: Path, make: SimpleNamespace) -> Path:
    for place, country in enumerate(("Egypt", "Yemen")):
        for number, split in enumerate(("validation", "test")):
            for shard in range(2):
                seed = 100 * place + 10 * number + 2 * shard
                rows = [
                    {"audio": audio_cell(seed), "seg_id": f"ep 1/{shard}_a", "transcription": "إزيَّك، عامل إيه؟"},
                    {
                        "audio": audio_cell(seed + 1, 44100, "FLAC"),
                        "seg_id": f"ep 1/{shard}_b",
                        "transcription": "ماشي",
                    },
                ]
                parquet(root / f"{country}/{split}-0000{shard}-of-00002.parquet", rows)
    return root


COMMON_VOICE_HEADER = "client_id\tpath\tsentence_id\tsentence\tup_votes\tgender\tage\taccents\tvariant\tlocale"


def common_voice_row(client: int, clip: int, sentence: str) -> str:
    return f"{client:0128x}\tcommon_voice_ar_{clip}.mp3\t\t{sentence}\t2\t\t\t\t\tar"


COMMON_VOICE = {
    "train": [
        common_voice_row(1, 11, '"قال: نَعَمْ، ثم مضى.'),
        common_voice_row(1, 12, "مرحبا"),
        common_voice_row(2, 13, 'اقتباس " وحيد'),
    ],
    "dev": [common_voice_row(3, 14, "أهلًا\u200f وسهلا")],
    "test": [common_voice_row(4, 15, "١٢ ڤيلا")],
    "validated": [common_voice_row(1, 11, "نعم"), common_voice_row(3, 14, "أهلا"), common_voice_row(4, 15, "فيلا")],
}


def _common_voice(root: Path, make: SimpleNamespace, *, release: str = "cv-corpus-18.0-2024-06-14") -> Path:
    folder = root / release / "ar"
    for rows in COMMON_VOICE.values():
        for row in rows:
            clip = folder / "clips" / row.split("\t")[1]
            if not clip.exists():
                make.noise(clip, 0.3, 32000, format="MP3")
    for split, rows in COMMON_VOICE.items():
        end = "\r\n" if split == "dev" else "\n"
        (folder / f"{split}.tsv").write_bytes((end.join([COMMON_VOICE_HEADER, *rows]) + end).encode("utf-8-sig"))
    return root


def _fleurs(root: Path, make: SimpleNamespace) -> Path:
    """One sentence of every split is read twice."""
    (root / "metadata/ar_eg").mkdir(parents=True)
    for place, split in enumerate(("train", "dev", "test")):
        names = [f"1000{place}{number}" for number in (1, 2, 3)]
        for name in names:
            make.noise(root / f"ar_eg/{split}/{name}.wav", 0.2)
        rows = [
            f"{10 * place + n // 2}\t{name}.wav\tقال: «نَعَمْ»، {10 * place + n // 2}.\tقال نعم {10 * place + n // 2}\t"
            "ق ا ل |\t3200\tFEMALE"
            for n, name in enumerate(names)
        ]
        (root / f"metadata/ar_eg/{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


GALE_TOP = "file;unicode\tchannel;int\tstart;float\n;;MM sectionTypes\n;;MM sectionBoundaries\n"


def gale_line(recording: str, start: float, end: float, speaker: str, text: str) -> str:
    return f"{recording}\t0\t{start}\t{end}\t{speaker}\tmale\tnative\t{text}\t0\t1\t2\treport\tstatement\n"


def _gale(root: Path, make: SimpleNamespace) -> Path:
    make.noise(root / "LDC2013S02/audio/ALAM_A_20070313.flac", 1.5)
    make.noise(root / "LDC2013S07/audio/ALAM_B_20070314.wav", 1.5)
    for recording, part in (("ALAM_A_20070313", "T04"), ("ALAM_B_20070314", "T17")):
        lines = [
            gale_line(f"{recording}.sph", 0.0, 0.5, "speaker 1", "السلام * عليكم"),
            gale_line(f"*{recording}", 0.5, 0.9, "أحمد", "<foreign>نعم</foreign>"),
            gale_line(f"{recording}.sph", 0.9, 1.0, "no speaker", ""),
            gale_line(f"{recording}.sph", 1.0, 1.4, "speaker 1", "لا"),
        ]
        path = root / f"LDC2013{part}/tdf/{recording}.tdf"
        path.parent.mkdir(parents=True)
        path.write_bytes((GALE_TOP + "".join(lines)).replace("\n", "\r\n").encode("utf-8-sig"))
    return root


VTT = """WEBVTT
Kind: captions

NOTE a comment

1
00:00:00.000 --> 00:00:00.700 align:start position:0%
12] <c.yellow>مرحبا</c>
بكم &amp; أهلا

00:00.600 --> 00:01.100
نعم

00:00:01.100 --> 00:00:01.300
[موسيقى]
"""


def _masc(root: Path, make: SimpleNamespace) -> Path:
    (root / "subsets").mkdir(parents=True)
    (root / "subtitles").mkdir()
    for video in ("-aB_cdefghi", "AbCdEfGhIjK", "xyz12345678"):
        make.noise(root / f"audios/{video}.wav", 1.5)
        (root / f"subtitles/{video}.ar.vtt").write_bytes(VTT.replace("\n", "\r\n").encode("utf-8-sig"))
    (root / "subsets/clean_train.csv").write_text(
        "video_id,category,video_duration,channel_id,country,dialect,gender,transcript_duration\n"
        "-aB_cdefghi,News,1.5,UC1,Saudi Arabia,Modern Standard,male,1.3\n"
    )
    (root / "subsets/noisy_test_meta.csv").write_text("AbCdEfGhIjK,News,1.5,UC1,Egypt,Egyptian,,1.3\n")
    (root / "subsets/clean_dev_meta.csv").write_text("xyz12345678,News,1.5,UC1,Egypt,,,1.3\r\n")
    return root


MGB2_TRAIN = "0A2C4C1F-1A2B-4C3D-8E9F-0123456789AB"
MGB2_DEV = "FF2C4C1F-1A2B-4C3D-8E9F-0123456789AB"
# start, end, speaker, WMER, words
MGB2_SEGMENTS = [
    (0.0, 0.5, 1, 0.0, "ذهبَ إلى المدرسةِ"),
    (0.5, 1.0, 2, 80.0, "قناة BBC@@LAT@@ العربية"),
    (0.9, 1.4, 1, 12.5, "#اه نعم"),
    (1.4, 1.8, 1, 80.1, "كلام آخر"),
    (1.8, 1.9, 1, 10.0, "#اه"),
]
MGB2_CLEAN = {
    f"{MGB2_DEV}_spk-0001_seg-0000000:0000050": "*hb <lY",
    f"{MGB2_DEV}_spk-0002_seg-0000050:0000100": "qnAp CNN@@LAT@@",
}
MGB2_OVERLAP = {f"{MGB2_DEV}_spk-0001_seg-0000090:0000130": "nEm"}


def _mgb2_xml(script: str) -> str:
    name = MGB2_TRAIN.replace("-", "_")
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<transcript>", "<head>", '<recording filename="x"/>']
    lines += ['<speakers><speaker id="a" name="b"/></speakers>', "</head>", "<body>"]
    lines += ['<segments annotation_id="transcript_orig"><segment id="o"><element>x</element></segment></segments>']
    lines += ['<segments annotation_id="transcript_align">']
    for number, (start, end, speaker, rate, text) in enumerate(MGB2_SEGMENTS):
        lines.append(
            f'<segment id="{name}_utt_{number}_align" who="{name}_speaker{speaker}_align" WMER="{rate}" PMER="0" '
            f'AWD="0.4" starttime="{start}" endtime="{end}">'
        )
        for word in text.split():
            if script == "bw" and "@@LAT@@" not in word:
                word = to_buckwalter(word).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            lines.append(f'<element type="word" id="w">{word}</element>')
        lines.append("</segment>")
    return "\r\n".join([*lines, "</segments>", "</body>", "</transcript>"])


def _mgb2_forms() -> dict[str, dict[str, str]]:
    """The files of a scored set as Lhotse, Kaldi and ESPnet name them."""

    def texts(rows: dict[str, str]) -> str:
        return "".join(f"{key} {text}\n" for key, text in rows.items())

    def segments(rows: dict[str, str]) -> str:
        times = {key: key.rsplit("-", 1)[1].split(":") for key in rows}
        return "".join(f"{key} {MGB2_DEV} {int(s) / 100:.2f} {int(e) / 100:.2f}\n" for key, (s, e) in times.items())

    def ids(rows: dict[str, str]) -> str:
        return "".join(f"{key}\n" for key in rows)

    return {
        "lhotse": {
            "text.non_overlap_speech": texts(MGB2_CLEAN),
            "segments.non_overlap_speech": segments(MGB2_CLEAN),
            "text.overlap_speech": texts(MGB2_OVERLAP),
            "segments.overlap_speech": segments(MGB2_OVERLAP),
        },
        "kaldi": {
            "text.all": texts(MGB2_CLEAN | MGB2_OVERLAP),
            "segments.all": segments(MGB2_CLEAN | MGB2_OVERLAP),
            "non_overlap_speech": ids(MGB2_CLEAN),
            "overlap_speech": ids(MGB2_OVERLAP),
        },
        "espnet": {
            "text": texts(MGB2_CLEAN | MGB2_OVERLAP),
            "segments.non_overlap_speech": segments(MGB2_CLEAN),
            "non_overlap_speech.lst": ids(MGB2_CLEAN),
            "overlap_speech.lst": ids(MGB2_OVERLAP),
        },
    }


def mgb2_scored(folder: Path, form: str, make: SimpleNamespace) -> None:
    make.noise(folder / f"wav/{MGB2_DEV}.wav", 1.5)
    for name, content in _mgb2_forms()[form].items():
        (folder / name).write_bytes(content.replace("\n", "\r\n").encode("utf-8-sig"))
    (folder / "wav.scp").write_text(f"{MGB2_DEV} sox /data/{MGB2_DEV}.wav -t wav - |\n")  # wav/ has the file


def _mgb2(root: Path, make: SimpleNamespace) -> Path:
    make.noise(root / f"train/wav/{MGB2_TRAIN}.wav", 2.0)
    for script in ("utf8", "bw"):
        path = root / f"train/xml/{script}/{MGB2_TRAIN}.xml"
        path.parent.mkdir(parents=True)
        path.write_bytes(_mgb2_xml(script).encode())
    mgb2_scored(root / "dev", "kaldi", make)
    return root


MGB3 = "comedy_75_first_12min"
MGB3_IDS = [f"{MGB3}_0.1_0.55", f"{MGB3}_0.55_1.2", f"{MGB3}_1.2_1.5"]


def _mgb3(root: Path, make: SimpleNamespace) -> Path:
    """Omar has not transcribed the second utterance, Alaa has no words for it."""
    make.noise(root / f"wav/{MGB3}.wav", 1.6)
    texts = {
        "Alaa": [f"{MGB3_IDS[0]} إزيك يا باشا", f"{MGB3_IDS[1]} #", f"{MGB3_IDS[2]} ماشى"],
        "Ali": [f"{MGB3_IDS[0]} ازيّك يا باشا", f"{MGB3_IDS[1]} كويس الحمد لله", f"{MGB3_IDS[2]} ماشي"],
        "Omar": [f"{MGB3_IDS[0]} #", f"{MGB3_IDS[2]} ماشيين"],
    }
    for split in ("adapt", "dev"):
        for name, lines in texts.items():
            path = root / f"{split}/{name}/text_noverlap"
            path.parent.mkdir(parents=True)
            lines = [line.replace(MGB3, f"{MGB3}_a") if split == "adapt" else line for line in lines]
            path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    make.noise(root / f"wav/{MGB3}_a.wav", 1.6)
    return root


MGB5_IDS = ("vlog_1_0001", "vlog_1_0002", "vlog_1_0003")


def _mgb5(root: Path, make: SimpleNamespace) -> Path:
    """Unpacked, with the segmentations of all annotators in one pair of files. The last stretch is listed once."""
    for split in ("train", "dev"):
        folder = root / "DB" / split
        make.noise(folder / f"wav/vlog_{split}.wav", 1.0)
        lines = {
            "a1": (0.0, 0.5, "wAx~A UNK"),
            "a2": (0.0, 0.5, "wA xA"),
            "a3": (0.0, 0.5, "UNK"),
            "a4": (0.5, 1, "lA"),
        }
        (folder / f"{split}.segments.bw").write_text(
            "".join(f"vlog_{split}_{key} vlog_{split} {start} {end}\n" for key, (start, end, _) in lines.items())
        )
        (folder / f"{split}.txt.bw").write_text(
            "".join(f"vlog_{split}_{key} {text}\n" for key, (*_, text) in lines.items())
        )
    return root


def _qasr(root: Path, make: SimpleNamespace) -> Path:
    segment = (
        '<segment id="{n}" who="A_B_speaker{k}_align" starttime="{start}" endtime="{end}" WMER="{rate}">'
        '<element type="word" id="1">{text}</element></segment>\n'
    )
    body = segment.format(n=1, k=1, start=0, end=0.4, text="مرحبا", rate=80) + segment.format(
        n=2, k=2, start=0.4, end=0.9, text="بكم", rate=95
    )
    xml = root / "release/train_20210109/xml/A-B.xml"
    xml.parent.mkdir(parents=True)
    xml.write_text(f"<transcript><body><segments>\n{body}</segments></body></transcript>", encoding="utf-8")
    make.noise(root / "wav/A-B.wav", 1.0)
    for split in ("dev", "test"):
        make.noise(root / f"release/{split}/wav/{split}-1.wav", 1.0)
        text = f"{split}-1_spk-0001_seg-0000010:0000060 نعم\n{split}-1_spk-0001_seg-0000060:0000100 لا\n"
        (root / f"release/{split}/text.verbatim.nonoverlap").write_text(text, encoding="utf-8")
    return root


def _omani(root: Path, make: SimpleNamespace) -> Path:
    """Three recordings: one with two speakers, two with one; a clip without a row, and notes without clips."""
    note = '<a href="#fn2" class="footnoteRef" class="audio"><sup>2</sup></a>'

    def row(clip: str, text: str, speaker: str = "") -> str:
        cells = [f'<td style="text-align: left;">Hey &amp; you{note}</td>']
        cells.append(f'<td><strong><a href="../audios/{clip}.mp3" class="audio">{text}</a></strong></td>')
        cells += [f"<td><strong>{speaker}{note}</strong></td>"] if speaker else []
        return "\n".join(['<tr class="odd">', *cells, "</tr>"])

    tables = {
        "text01": [row("v1l01", f"أوه! {note}عبود […]", "خ"), row("v1l02", "هلا &quot;تفضلوا&quot;", "ع")],
        "text03": [row("v3l01", "الأمثال")],
        "text07": [row("v7l1", "جانا وفد")],
    }
    (root / "transcripts").mkdir(parents=True)
    for name, rows in tables.items():
        page = ['<p>Transcript of <a href="x">an excerpt</a>.</p>', "<table>", "<tbody>", *rows, "</tbody>", "</table>"]
        (root / f"transcripts/{name}.html").write_text("\n".join(page), encoding="utf-8")
    for clip in ("v1l01", "v1l02", "v3l01", "v7l1", "v9l99"):
        make.noise(root / f"audios/{clip}.mp3", 0.3, format="MP3")
    (root / "transcripts/control.txt").write_text("F: Ach\n\nديك = تلك\n", encoding="utf-8")
    return root


def _verse_clips(root: Path, make: SimpleNamespace) -> Path:
    samples = []
    for name, source, ayahs in (
        ("r_0.wav", "retasy", [3]),
        ("ea_1.mp3", "everyayah", [2]),
        ("m.wav", "everyayah", [1, 2]),
    ):
        make.noise(root / name, 0.3, format="MP3" if name.endswith("mp3") else "WAV")
        expected = [{"surah": 1, "ayah": ayah} for ayah in ayahs]
        samples.append(
            {"id": name[:-4], "file": name, "category": "short", "source": source, "expected_verses": expected}
        )
    (root / "manifest.json").write_text(json.dumps({"samples": samples}))
    verses = ["بِسۡمِ ٱللَّهِ", "ٱلۡحَمۡدُ لِلَّهِ", "ٱلرَّحۡمَٰنِ"]
    text = {"1": [{"chapter": 1, "verse": n, "text": own} for n, own in enumerate(verses, 1)]}
    (root / "quran.json").write_text(json.dumps(text), encoding="utf-8")
    return root


# Corpora that their publishers ship as Parquet


def rename_columns(path: Path, names: dict[str, str]) -> None:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.rename_columns([names.get(name, name) for name in table.column_names]), path)


def _clartts(root: Path, make: SimpleNamespace) -> Path:
    """Decoded samples at 40.1 kHz, with the rate in a column of its own."""
    for part, count in (("train", 3), ("test", 2)):
        rows = []
        for n in range(count):
            samples = 0.1 * np.random.default_rng(1000 + 10 * count + n).standard_normal(12030)
            row = {"text": f"قَالَ {part} {n}", "file": f"{n}.wav", "samples": samples.tolist()}
            rows.append(row | {"sampling_rate": 40100, "duration": "0.3"})
        path = parquet(root / f"data/{part}-00000-of-00001-0a1b2c3d.parquet", rows)
        rename_columns(path, {"samples": "audio"})
    return root


def _arvoice(root: Path, make: SimpleNamespace) -> Path:
    parts = ("Human_1/train", "Human_3/train", "Human_3/test", "Synthetic_1/train")
    for place, (part, split) in enumerate(own.split("/") for own in parts):
        rows = [
            {"audio": audio_cell(2000 + 10 * place + n), "transcription": f"نَصٌّ {place} {n}", "speaker_id": f"s{n}"}
            for n in range(2)
        ]
        rename_columns(parquet(root / part / f"{split}-00000-of-00001.parquet", rows), {"audio": "original_wav"})
    return root


def _mixat(root: Path, make: SimpleNamespace) -> Path:
    for place, part in enumerate(("train", "test")):
        rows = [
            {"audio": audio_cell(2100 + 10 * place + n), "transcript": f"شفت ال meeting {n}", "language": "mixed"}
            for n in range(2)
        ]
        parquet(root / f"data/{part}-00000-of-00001.parquet", rows)
    return root


def _tunswitch(root: Path, make: SimpleNamespace) -> Path:
    parts = ("train_cs", "validation_cs", "test_cs", "train_to", "test_to", "test_wavs")
    for place, part in enumerate(parts):
        rows = [
            {"audio": audio_cell(2200 + 10 * place + n), "text": f"نحب café {n}", "speaker_id": f"{place}-{n}"}
            for n in range(2)
        ]
        parquet(root / f"data/{part}-00000-of-00001.parquet", rows)
    return root


def _madis5(root: Path, make: SimpleNamespace) -> Path:
    words = ("Egyptian Arabic", "Gulf Arabic", "Levantine Arabic", "Maghrebi Arabic", "Modern Standard Arabic")
    rows = [{"audio": audio_cell(2300 + n), "segment_id": f"seg-{n}", "dialect": word} for n, word in enumerate(words)]
    parquet(root / "data/test-00000-of-00001.parquet", rows)
    return root


# Talks, telephone calls, media


def _mediaspeech(root: Path, make: SimpleNamespace) -> Path:
    for name in ("0a1b2c3d-1", "0a1b2c3d-2"):
        make.noise(root / f"AR/{name}.flac", 0.3, format="FLAC")
        (root / f"AR/{name}.txt").write_text("قالت\nالمصادر\n", encoding="utf-8")
    return root


def _mtedx(root: Path, make: SimpleNamespace) -> Path:
    """Sentences in `txt` for training, subtitles alone for the other sets."""
    for split in ("train", "valid", "test"):
        folder = root / f"ar-ar/data/{split}"
        make.noise(folder / f"wav/{split}talk_-1.flac", 1.0, 44100, format="FLAC")
        (folder / "vtt").mkdir()
        cues = "WEBVTT\n\n00:00:00.100 --> 00:00:00.400\nأهلا\n\n00:00:00.400 --> 00:00:00.900\nو سهلا\n"
        (folder / f"vtt/{split}talk_-1.ar.vtt").write_text(cues, encoding="utf-8")
    txt = root / "ar-ar/data/train/txt"
    txt.mkdir()
    (txt / "segments").write_text("t_0 traintalk_-1 0.1 0.5\nt_1 traintalk_-1 0.5 0.9\nt_2 traintalk_-1 0.9 1.0\n")
    (txt / "train.ar").write_text("أهلا وسهلا\n\nشكرا\n", encoding="utf-8")
    return root


def _arzen(root: Path, make: SimpleNamespace) -> Path:
    for number in (1, 2, 3):
        make.noise(root / f"recordings/C03-R0{number}.WAV", 2.0, 44100)
    (root / "transcriptions").mkdir()
    rows = {
        "train": [
            "S01-C03-R01_000059-000150\tال+weekends mainly [HES] فبنزور ال+two*families",
            "I01-C03-R02_000100-000160\t[LAUGHTER] mobile#ي",
        ],
        "dev": ["S02-C03-R02_000010-000090\tلو عندنا تمارين"],
        "test": ["S03-C03-R03_000010-000190\tاه اسكندرية"],
    }
    for split, lines in rows.items():
        (root / f"transcriptions/{split}.src").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def _iwslt22_tunisian(root: Path, make: SimpleNamespace) -> Path:
    names = {
        "train": "20160101_1200_1_A",
        "dev": "20160101_1200_2_B",
        "test1": "20160102_1300_3_A",
        "": "x_y_4_A",
    }
    for split, name in names.items():
        make.noise(root / f"data/audio/ta/{name}.sph", 2.0, 8000, format="NIST", subtype="PCM_16")
        lines = ["0.1\t0.6\tA\tO/ bonjour شنوة ((حوالك))", "0.6\t1.1\tA\tUM/ لا %pw يعن", "1.2\t1.2\tA\tخايب"]
        (root / "data/transcripts/ta").mkdir(parents=True, exist_ok=True)
        (root / f"data/transcripts/ta/{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if split:
            (root / "iwslt22-dialect").mkdir(exist_ok=True)
            (root / f"iwslt22-dialect/{split}.file_id.txt").write_text(f"{name}\n")
    bad = "".join(f"{name} 1.2 1.2\n" for name in names.values())
    (root / "iwslt22-dialect/exclude-utterance.txt").write_text(bad)
    return root


SADA_HEADER = (
    "FileName,SegmentID,SegmentStart,SegmentEnd,SegmentLength,FullFileLength,ProcessedText,Speaker,SpeakerDialect,"
    "SpeakerGender"
)


def _sada(root: Path, make: SimpleNamespace) -> Path:
    def row(file: str, number: int, start: float, end: float, text: str, speaker: str, dialect: str = "نجدي") -> str:
        return f'{file},{number},{start},{end},{end - start},2,"{text}",{speaker},{dialect},ذكر'

    for split in ("train", "valid", "test"):
        show = f"batch_1/{split} show.wav"
        make.noise(root / show, 2.0, 22050)
        make.noise(root / f"batch_1/{split}-2.wav", 1.0)
        rows = [
            row(show, 0, 0.0, 0.5, "هلا، كيف الحال؟", "متحدث 1"),
            row(show, 1, 0.5, 1.25, 'قال ""نعم""', "متحدث 2", "حجازي جداً"),
            row(show, 2, 1.25, 1.5, "[غير واضح] طيب", "متحدث 1"),
            row(show, 4, 1.5, 1.75, "غيرواضح", "متحدث 1"),
            row(f"batch_1\\{split}-2.wav", 3, 0.0, 0.5, "طيب", "متحدث 1", ""),
        ]
        (root / f"{split}.csv").write_bytes("\r\n".join([SADA_HEADER, *rows, ""]).encode("utf-8-sig"))
    return root


# English


def _librispeech(root: Path, make: SimpleNamespace) -> Path:
    for part, speaker, chapter in (("train-clean-5", 121, 7), ("train-clean-5", 1210, 8), ("dev-clean-2", 84, 9)):
        folder = root / part / str(speaker) / str(chapter)
        lines = []
        for number in range(3):
            utt_id = f"{speaker}-{chapter}-{number:04d}"
            make.noise(folder / f"{utt_id}.flac", (3203 + number) / 16000)  # no multiple of a millisecond
            lines.append(f"{utt_id} THE WORDS OF IT'S NUMBER {number}")
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("\n".join(lines) + "\n")
    return root


def _tedlium3(root: Path, make: SimpleNamespace) -> Path:
    make.noise(root / "legacy/dev/sph/AlGore_2009.sph", 32007 / 16000, format="NIST", subtype="PCM_16")
    stm = root / "legacy/dev/stm/AlGore_2009.stm"
    stm.parent.mkdir()
    stm.write_text(
        "AlGore_2009 1 AlGore_2009 0.10 0.40 <o,f0,male> it 's <unk> good(2) {BREATH} today\n"
        "AlGore_2009 1 inter_segment_gap 0.40 0.90 <o,,unknown> ignore_time_segment_in_scoring\n"
        "AlGore_2009 1 AlGore_2009 0.90 2.00 <o,f0,male> thank you\n"
    )
    return root


def _gigaspeech(root: Path, make: SimpleNamespace) -> Path:
    audios = []
    for aid, subset in (("POD1", "{XL}"), ("YOU1", "{DEV}")):
        make.noise(root / f"audio/{aid}.opus", 2.0, format="OGG", subtype="OPUS")
        texts = ["HELLO <COMMA> WORLD <PERIOD>", "<MUSIC>", "IT'S FINE <QUESTIONMARK>"]
        segments = [
            {
                "sid": f"{aid}_S{n:07d}", "speaker": "N/A", "begin_time": n / 2, "end_time": n / 2 + 0.4,
                "text_tn": text, "subsets": [subset],
            }
            for n, text in enumerate(texts)
        ]  # fmt: skip
        audios.append(
            {
                "aid": aid, "path": f"audio/{aid}.opus", "sample_rate": 16000, "channels": 1, "duration": 2.0,
                "subsets": [subset], "segments": segments,
            }
        )  # fmt: skip
    (root / "GigaSpeech.json").write_text(json.dumps({"dataset": "GigaSpeech", "audios": audios}))
    return root


def _voxpopuli(root: Path, make: SimpleNamespace) -> Path:
    make.noise(root / "raw_audios/en/2009/20090101-0900-PLENARY_en.ogg", 2.0, format="OGG", subtype="VORBIS")
    header = "session_id|id_|original_text|normed_text|speaker_id|gender|start_time|end_time|split|paragraph_id|is_gold"
    rows = [
        f"20090101-0900-PLENARY|x|Hello, World.|hello world|{speaker}|female|{start}|{end}|{split}|1|False"
        for speaker, start, end, split in (
            (4545, 0.1, 0.9, "train"), ("None", 1.0, 1.5, "dev"), (4546, 1.5, 1.6, "test"), (1, 1.6, 1.9, "unused"),
        )
    ]  # fmt: skip
    with gzip.open(root / "asr_en.tsv.gz", "wt") as file:
        file.write("\n".join([header, *rows]) + "\n")
    return root


TREES = {name[1:]: own for name, own in list(globals().items()) if name[1:] in registry.MODULES}


@pytest.fixture
def tree(tmp_path, noise, write_clip, corpus_trees) -> Callable[..., Path]:
    """Writes the small tree of a corpus below `tmp_path` and returns its folder."""
    make = SimpleNamespace(noise=noise, clip=write_clip)

    def write(name: str, **options: object) -> Path:
        if hasattr(corpus_trees, name):
            return getattr(corpus_trees, name)(tmp_path / name, **options)
        return TREES[name](tmp_path / name, make, **options)

    return write


@pytest.fixture
def made(noise, write_clip) -> SimpleNamespace:
    """Texts, ids and row makers of the trees, for tests that change a tree."""
    make = SimpleNamespace(noise=noise, clip=write_clip)
    return SimpleNamespace(
        videos=VIDEOS,
        md5=md5,
        parquet=parquet,
        audio_cell=audio_cell,
        callhome=CALLHOME,
        common_voice_header=COMMON_VOICE_HEADER,
        common_voice_row=common_voice_row,
        gale_top=GALE_TOP,
        gale_line=gale_line,
        mgb2_train=MGB2_TRAIN,
        mgb2_dev=MGB2_DEV,
        mgb2_clean=MGB2_CLEAN,
        mgb2_overlap=MGB2_OVERLAP,
        mgb2_scored=lambda folder, form: mgb2_scored(folder, form, make),
        mgb3_ids=MGB3_IDS,
        sada_header=SADA_HEADER,
    )

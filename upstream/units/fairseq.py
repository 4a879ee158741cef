"""Units in fairseq's text form, with its manifest beside them: what HuBERT recipes of others read and write.

<folder>/<split>.tsv    first line the root of the audio, then `path<TAB>samples` of every utterance
<folder>/<split>.km     the labels of the utterance on the same line of the manifest, without the root's line
<folder>/dict.km.txt    one label a line, as fairseq's dictionary wants them
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from corpora.datadir import Utterance, read_datadir
from corpora.files import sha256_file, write_text
from upstream.units.codebook import MAX_K
from upstream.units.units import FRAME_RATE, Units, UnitsError, UnitsInfo, export_km, import_km


def export_folder(units_dir: Path, data: dict[str, Path], folder: Path) -> None:
    """Write manifest, labels and dictionary of the splits of `data`, for the utterances that have units.

    Raises UnitsError for a data directory with segments: a manifest knows whole files only.
    """
    k = 0
    for split, path in data.items():
        units = Units.open(units_dir, split)
        utterances = [u for u in read_datadir(path) if u.utt_id in units]
        write_manifest(utterances, folder / f"{split}.tsv")
        export_km(units, folder / f"{split}.km", utterances)
        k = units.info.k
    write_text(folder / "dict.km.txt", "".join(f"{label} 1\n" for label in range(k)))


def import_folder(folder: Path, data: dict[str, Path], units_dir: Path, k: int, *, km_rate: int = FRAME_RATE) -> None:
    """Make a units folder of `<split>.km` and, for its order, `<split>.tsv`; without a manifest the order is that of
    the data directory.

    `km_rate` is the rate of the labels in Hz, 50 or 100. Raises UnitsError naming file, line and utterance.
    """
    if not 1 < k <= MAX_K:
        raise UnitsError(f"k={k} must lie between 2 and {MAX_K}; say how many clusters the labels have")
    for split, path in data.items():
        km, manifest = folder / f"{split}.km", folder / f"{split}.tsv"
        if not km.is_file():
            raise UnitsError(f"{km}: no such file; labels of every split are needed: {', '.join(data)}")
        utterances = read_datadir(path)
        if manifest.is_file():
            utterances = read_manifest(manifest, utterances)
        info = UnitsInfo(FRAME_RATE, k, "km", f"km:{folder.name}", None, None, sha256_file(km), None)
        import_km(km, utterances, units_dir, split, info, km_rate=km_rate)


def write_manifest(utterances: Sequence[Utterance], path: Path) -> None:
    """fairseq's manifest; the root is the folder that all audio files share."""
    cut = next((u for u in utterances if u.start is not None), None)
    if cut is not None:
        raise UnitsError(
            f"{path}: utterance {cut.utt_id} is a segment of {cut.audio}, and a manifest knows whole files only; "
            "write the segments to files of their own first"
        )
    if not utterances:
        raise UnitsError(f"{path}: no utterance to write")
    files = [u.audio.resolve() for u in utterances]
    root = Path(os.path.commonpath([file.parent for file in files]))
    rows = (f"{file.relative_to(root)}\t{u.samples}\n" for file, u in zip(files, utterances, strict=True))
    write_text(path, f"{root}\n" + "".join(rows))


def read_manifest(path: Path, utterances: Sequence[Utterance]) -> list[Utterance]:
    """The utterances in the order of a manifest. Raises UnitsError for a line that is not one of them, by its place
    below the manifest's root or, where the audio has moved, by the end of its path."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    if not lines:
        raise UnitsError(f"{path}: empty; the first line is the root of the audio")
    root = Path(lines[0].strip())
    by_file = {u.audio.resolve(): u for u in utterances}
    found: list[Utterance] = []
    for number, line in enumerate(lines[1:], 2):
        name, _, samples = line.rstrip().partition("\t")
        utterance = by_file.get((root / name).resolve()) or _by_end(Path(name), by_file)
        if utterance is None:
            raise UnitsError(f"{path}:{number}: {name} is no utterance of the data directory")
        if samples != str(utterance.samples):
            raise UnitsError(
                f"{path}:{number}: utterance {utterance.utt_id} has {utterance.samples} samples here, "
                f"but {samples or 'no number'} in the manifest: is it other audio, or not at 16 kHz?"
            )
        found.append(utterance)
    return found


def _by_end(name: Path, by_file: dict[Path, Utterance]) -> Utterance | None:
    same = [u for file, u in by_file.items() if file.parts[-len(name.parts) :] == name.parts]
    return same[0] if len(same) == 1 else None

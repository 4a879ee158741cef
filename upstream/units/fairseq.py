"""Write and read units as fairseq's text files with its manifest, the format of other HuBERT recipes.

<folder>/<split>.tsv    first line the root of the audio, then `path<TAB>samples` of every utterance
<folder>/<split>.km     one line of labels for each utterance, in the order of the manifest
<folder>/dict.km.txt    one label per line, fairseq's dictionary
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from corpora.datadir import Utterance, read_datadir
from corpora.files import atomic_file, sha256_file, write_text, writes
from upstream.errors import UpstreamError
from upstream.model.encoder import frame_count
from upstream.model.family import FRAME_RATE
from upstream.units.codebook import MAX_K
from upstream.units.units import TOO_SHORT, Units, UnitsInfo, UnitsWriter


@writes("folder")
def export_folder(units_dir: Path, data: dict[str, Path], folder: Path) -> None:
    """Write manifest, labels and dictionary of the splits of `data`, for the utterances that have units.

    Raises UpstreamError for a data directory with segments: a manifest lists whole files only.
    """
    k = 0
    for split, path in data.items():
        units = Units.open(units_dir, split)
        utterances = [u for u in read_datadir(path) if u.utt_id in units]
        write_manifest(utterances, folder / f"{split}.tsv")
        export_km(units, folder / f"{split}.km", utterances)
        k = units.info.k
    write_text(folder / "dict.km.txt", "".join(f"{label} 1\n" for label in range(k)))


@writes("units_dir")
def import_folder(folder: Path, data: dict[str, Path], units_dir: Path, k: int, *, km_rate: int = FRAME_RATE) -> None:
    """Convert `<split>.km` to a units folder, in the order of `<split>.tsv` or, without one, of the data directory.

    `km_rate` is the rate of the labels in Hz, 50 or 100. Raises UpstreamError with file, line and utterance.
    """
    if not 1 < k <= MAX_K:
        raise UpstreamError(f"k={k} must lie between 2 and {MAX_K}; give the number of clusters of the labels")
    for split, path in data.items():
        km, manifest = folder / f"{split}.km", folder / f"{split}.tsv"
        if not km.is_file():
            raise UpstreamError(f"{km}: no such file; labels of every split are needed: {', '.join(data)}")
        utterances = read_datadir(path)
        if manifest.is_file():
            utterances = read_manifest(manifest, utterances)
        info = UnitsInfo(FRAME_RATE, k, "km", f"km:{folder.name}", None, None, sha256_file(km), None)
        import_km(km, utterances, units_dir, split, info, km_rate=km_rate)


def export_km(units: Units, path: Path, utterances: Sequence[Utterance]) -> None:
    """Write one line of labels for each of `utterances`, in their order.

    Raises UpstreamError if an utterance has no units: the lines would not match the manifest.
    """
    missing = [u.utt_id for u in utterances if u.utt_id not in units]
    if missing:
        raise UpstreamError(f"{units}: {len(missing)} of these utterances have no units, first {missing[0]}")
    with atomic_file(path) as temporary, open(temporary, "w", encoding="ascii", newline="\n") as file:
        for utterance in utterances:
            file.write(" ".join(map(str, units[utterance.utt_id].tolist())) + "\n")


def import_km(
    path: Path,
    utterances: Sequence[Utterance],
    folder: Path,
    split: str,
    info: UnitsInfo,
    *,
    km_rate: int = FRAME_RATE,
) -> None:
    """Read one line of labels for each of `utterances`, in their order, and write `<folder>/<split>`.

    `km_rate` is the rate of the labels in Hz: 50, or 100 as in fairseq's MFCC labels, of which every second is kept.
    Raises UpstreamError with file, line and utterance.
    """
    if km_rate not in (FRAME_RATE, 2 * FRAME_RATE):
        raise UpstreamError(f"{path}: labels at {km_rate} Hz cannot be used; they must be at 50 or 100 Hz")
    with open(path, encoding="utf-8-sig") as file:
        lines = sum(1 for _ in file)
    if lines != len(utterances):
        raise UpstreamError(f"{path}: {lines} lines for {len(utterances)} utterances; is it another manifest?")
    # Line by line: the labels of 1,000 hours as Python strings would take 11 GB.
    with open(path, encoding="utf-8-sig") as file, UnitsWriter(folder, split, info) as writer:
        for number, (line, utterance) in enumerate(zip(file, utterances, strict=True), 1):
            where = f"{path}:{number}: utterance {utterance.utt_id}"
            try:
                labels = np.array(line.split(), dtype=np.int64)[:: km_rate // FRAME_RATE]
            except (ValueError, OverflowError) as error:
                raise UpstreamError(f"{where}: not a line of integers ({error})") from error
            frames = frame_count(utterance.samples)
            if len(labels) != frames:
                raise UpstreamError(f"{where} has {len(labels)} labels at 50 Hz, expected {frames}")
            if frames == 0:
                writer.leave_out(utterance.utt_id, TOO_SHORT)
            else:
                writer.add(utterance.utt_id, labels)


def write_manifest(utterances: Sequence[Utterance], path: Path) -> None:
    """Write fairseq's manifest; its root is the common parent folder of the audio files."""
    cut = next((u for u in utterances if u.start is not None), None)
    if cut is not None:
        raise UpstreamError(
            f"{path}: utterance {cut.utt_id} is a segment of {cut.audio}, but a manifest lists whole files only; "
            "write the segments to separate files first"
        )
    if not utterances:
        raise UpstreamError(f"{path}: no utterance to write")
    files = [u.audio.resolve() for u in utterances]
    root = Path(os.path.commonpath([file.parent for file in files]))
    rows = (f"{file.relative_to(root)}\t{u.samples}\n" for file, u in zip(files, utterances, strict=True))
    write_text(path, f"{root}\n" + "".join(rows))


def read_manifest(path: Path, utterances: Sequence[Utterance]) -> list[Utterance]:
    """The utterances in the order of a manifest.

    A line matches by its path below the manifest's root or, if the audio has moved, by the end of its path. Raises
    UpstreamError for a line without an utterance.
    """
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    if not lines:
        raise UpstreamError(f"{path}: empty; the first line is the root of the audio")
    root = Path(lines[0].strip())
    by_file = {u.audio.resolve(): u for u in utterances}
    found: list[Utterance] = []
    for number, line in enumerate(lines[1:], 2):
        name, _, samples = line.rstrip().partition("\t")
        utterance = by_file.get((root / name).resolve()) or _by_end(Path(name), by_file)
        if utterance is None:
            raise UpstreamError(f"{path}:{number}: {name} is not in the data directory")
        if samples != str(utterance.samples):
            raise UpstreamError(
                f"{path}:{number}: utterance {utterance.utt_id} has {utterance.samples} samples here, "
                f"but {samples or 'no number'} in the manifest: is it other audio, or another sample rate?"
            )
        found.append(utterance)
    return found


def _by_end(name: Path, by_file: dict[Path, Utterance]) -> Utterance | None:
    same = [u for file, u in by_file.items() if file.parts[-len(name.parts) :] == name.parts]
    return same[0] if len(same) == 1 else None

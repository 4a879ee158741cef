"""Read a corpus as a hub keeps it: Parquet shards with the audio inside, streamed into files.

    <corpus>/[data/]<part>-00000-of-00003.parquet          or <part>.parquet, <part>/0000.parquet,
    <corpus>/[data/]<configuration>/<the same>             for corpora of several configurations (countries, languages)

A row has the audio (`{"bytes", "path"}`, bytes, a path inside the corpus, or `{"array", "sampling_rate"}`) and columns
whose names differ between copies, so a preparer gives several names for each field. The recordings are written to
`<out>/unpacked/<configuration>/<part>/`; a file of the same size is kept, so that an interrupted run continues.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from corpora.files import CorpusError
from corpora.prepare.ids import safe_id
from corpora.prepare.preparation import Item, Preparation, is_held_out
from corpora.prepare.readers import Bad, parquet_columns, read_parquet, store_audio
from corpora.prepare.tree import visible_files
from corpora.registry import CorpusInfo

SPLIT_OF = {
    "train": "train", "training": "train", "adapt": "adapt", "adaptation": "train", "validation": "dev",
    "valid": "dev", "val": "dev", "dev": "dev", "devel": "dev", "test": "test", "eval": "test",
}  # fmt: skip
AUDIO = ("audio", "original_wav", "wav", "speech", "audio_file", "file", "path")

_NAME = re.compile(
    r"(?:partial-)?(?P<part>[a-z]+)?(?:_(?P<kind>[a-z]+))?[-_.]?(?:(?P<number>\d+)(?:-of-(?P<total>\d+))?)?(?:-[0-9a-f]+)?"
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """One Parquet file: its part (train, ...), configuration (empty without one), number and number of all shards."""

    path: Path
    part: str
    folder: str
    number: int
    total: int | None

    @property
    def split(self) -> str:
        return SPLIT_OF[self.part]


@dataclass(frozen=True)
class Clip:
    """One row: its place, its recording inside the folder of recordings, and its fields; a missing field is empty."""

    where: str
    split: str
    folder: str
    source: str
    fields: Mapping[str, str]

    def __getitem__(self, field: str) -> str:
        return self.fields.get(field, "")

    @property
    def name(self) -> str:
        """The name of the recording, which no other clip of the part has."""
        return Path(self.source).stem


def shards(corpus_dir: Path, wanted: Callable[[str], bool] = lambda folder: True) -> list[Shard]:
    """The Parquet files of a corpus folder, of all parts; empty without any.

    wanted: chooses configurations by name. Shards that training lacks are named in the log. Raises CorpusError for a
    file whose part is unknown, and for a dev or test part that lacks shards.
    """
    files = [path for pattern in ("*", "*/*", "*/*/*") for path in visible_files(corpus_dir, f"{pattern}.parquet")]
    found = [shard for shard in (_shard(corpus_dir, path) for path in files) if wanted(shard.folder)]
    groups: dict[tuple[str, str], list[Shard]] = defaultdict(list)
    for shard in found:
        groups[shard.folder, shard.part].append(shard)
    for (_, part), own in groups.items():
        total = own[0].total
        missing = sorted(set(range(total)) - {shard.number for shard in own}) if total else []
        if missing:
            message = f"{own[0].path.parent}: {part} lacks {len(missing)} of {total} shards, as number {missing[0]}"
            if is_held_out(SPLIT_OF[part]):
                raise CorpusError(f"{message}; fetch the whole part")
            _log.warning("%s", message)
    return sorted(found, key=lambda shard: (shard.folder, shard.part, shard.path.name))


class Hub:
    """The rows of a corpus's shards."""

    def __init__(
        self,
        info: CorpusInfo,
        corpus_dir: Path,
        out_dir: Path,
        found: Sequence[Shard],
        fields: Mapping[str, Sequence[str]],
        *,
        required: Sequence[str] = ("text",),
        chosen: Sequence[str] = (),
    ):
        """fields: names of the columns of each field, the most likely first; `audio` is added.  required: fields that
        a file must have.  chosen: `field=column` of the option, which replace these names."""
        self.clips_dir = out_dir / "unpacked"
        self._info = info
        self._corpus_dir = corpus_dir
        self._shards = list(found)
        self._fields = {
            "audio": AUDIO,
            "rate": ("sampling_rate", "sample_rate"),
            **{name: tuple(columns) for name, columns in fields.items()},
        }
        self._required = ("audio", *required)
        for entry in chosen:
            field, equals, column = entry.partition("=")
            if not equals or field not in self._fields:
                raise CorpusError(f"parquet={entry}: expected <field>=<column>, fields are {', '.join(self._fields)}")
            self._fields[field] = (column,)

    def splits(self) -> list[str]:
        """The sets that the corpus has, in the order train, dev, test."""
        return [split for split in dict.fromkeys(SPLIT_OF.values()) if any(s.split == split for s in self._shards)]

    def add_to(self, work: Preparation, item: Callable[[Clip], Item | None]) -> None:
        """Add the clips of every split to a preparation; None leaves a clip out."""
        for split in self.splits():
            work.add(split, (own for clip in self.clips(split, work.bad) if (own := item(clip)) is not None))

    def clips(self, split: str, bad: Bad) -> Iterator[Clip]:
        """The rows of a split, with their recordings written; rows without readable audio go to `bad`.

        Raises CorpusError for a file that is damaged or lacks a column.
        """
        own = [shard for shard in self._shards if shard.split == split]
        taken: set[str] = set()
        for shard in tqdm(own, desc=f"{self._info.name} {split} Parquet", unit="file", mininterval=0.5):
            columns = self._columns(shard.path)
            for number, (where, row) in enumerate(read_parquet(shard.path, list(columns.values())), 1):
                values = {field: _text(row[column]) for field, column in columns.items() if field != "audio"}
                audio = _with_rate(row[columns["audio"]], values.get("rate", ""))
                stem = self._stem(shard, audio, values, number, taken)
                try:
                    path = store_audio(audio, self.clips_dir / stem, self._corpus_dir)
                except CorpusError as error:
                    bad(where, str(error))
                    continue
                yield Clip(where, split, shard.folder, path.relative_to(self.clips_dir).as_posix(), values)

    def _columns(self, path: Path) -> dict[str, str]:
        """Field -> column of one file."""
        names = {name.lower(): name for name in reversed(parquet_columns(path))}
        found = {}
        for field, candidates in self._fields.items():
            column = next((names[name.lower()] for name in candidates if name.lower() in names), None)
            if column is not None and column not in found.values():
                found[field] = column
        missing = [field for field in self._required if field not in found]
        if missing:
            raise CorpusError(
                f"{path}: expected a column for {missing[0]} ({', '.join(self._fields[missing[0]])}); found "
                f"{', '.join(names.values())} (--set parquet={missing[0]}=<column>)"
            )
        return found

    def _stem(self, shard: Shard, audio: object, values: Mapping[str, str], number: int, taken: set[str]) -> str:
        """Where the recording goes: its own name, else its id, else its number; a repeated name gets the number."""
        path = audio.get("path") if isinstance(audio, dict) else audio if isinstance(audio, str) else None
        name = Path(str(path or "").replace("\\", "/")).stem or values.get("id", "")
        name = safe_id(name).strip(".") if name else ""
        folder = "/".join(filter(None, (safe_id(shard.folder) if shard.folder else "", shard.part)))
        if not name or f"{folder}/{name}" in taken:
            name = "_".join(filter(None, (name, f"{shard.number:05d}", f"{number:06d}")))
        taken.add(f"{folder}/{name}")
        return f"{folder}/{name}"


def _shard(corpus_dir: Path, path: Path) -> Shard:
    match = _NAME.fullmatch(path.stem.lower())
    parents = [name for name in path.relative_to(corpus_dir).parts[:-1] if name.lower() not in ("data", "default")]
    part = match["part"] if match and match["part"] in SPLIT_OF else ""
    if not part and parents and parents[-1].lower().removeprefix("partial-") in SPLIT_OF:
        part = parents.pop().lower().removeprefix("partial-")
    if not part:
        raise CorpusError(
            f"{path}: expected a name like train-00000-of-00001.parquet; the part is one of {', '.join(SPLIT_OF)}"
        )
    if match and match["kind"]:  # train_cs-00000-of-00002
        parents.append(match["kind"])
    number = int(match["number"] or 0) if match else 0
    total = int(match["total"]) if match and match["total"] else None
    return Shard(path, part, "/".join(parents), number, total)


def _with_rate(audio: object, rate: str) -> object:
    """Decoded samples whose rate is in a column of its own as one mapping; other audio as it is."""
    if isinstance(audio, list) and len(audio) > 1 and isinstance(audio[0], int | float):
        return {"array": audio, "sampling_rate": int(rate) if rate.isdecimal() else None}
    return audio


def _text(value: object) -> str:
    """A field as text; empty for no value."""
    if value is None or value != value:  # NaN, for a gap in a column of numbers
        return ""
    return " ".join(str(value).split()) if isinstance(value, str) else str(value)

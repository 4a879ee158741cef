"""Edit distances from one text to every span of consecutive lines, in one pass over the text.

Lines are joined without a separator. The spans that begin at one line are prefixes of each other, so one matrix of the
dynamic programme holds the distances of all of them. Its columns are bit vectors (Myers, "A fast bit-vector algorithm
for approximate string matching based on dynamic programming", J. ACM 1999; words with carries as in Hyyro, "A
bit-vector algorithm for computing Levenshtein and Damerau edit distances", 2003); each NumPy operation works on one
word of all first lines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_WORD = 64
_ONE = np.uint64(1)
_TOP = np.uint64(_WORD - 1)


class SpanDistances:
    """Lines, prepared for many texts. `starts` and `counts` of every span: its first line, its number of lines."""

    def __init__(self, lines: Sequence[str], spans: int) -> None:
        ends = np.concatenate([[0], np.cumsum([len(line) for line in lines])])
        sizes = np.arange(1, spans + 1)
        self.starts = np.concatenate([np.arange(len(lines) - n + 1) for n in sizes])
        self.counts = np.repeat(sizes, len(lines) - sizes + 1)
        self.begins = ends[self.starts]  # in letters of all lines together
        self.lengths = ends[self.starts + self.counts] - self.begins
        self.whole = "".join(lines)
        codes = np.frombuffer(self.whole.encode("utf-32-le"), np.uint32)
        self._bits = {chr(code): self._packed(codes == code) for code in np.unique(codes)}
        self._none = self._packed(np.zeros(len(codes), bool))

    @staticmethod
    def _packed(where: np.ndarray) -> np.ndarray:
        """Booleans as bits of 64-bit words, with two words of zeros behind them."""
        size = (len(where) // _WORD + 3) * _WORD
        return np.packbits(np.pad(where, (0, size - len(where))), bitorder="little").view(np.uint64)

    def string(self, span: int) -> str:
        """The letters of a span."""
        return self.whole[self.begins[span] : self.begins[span] + self.lengths[span]]

    def distances(self, text: str, chosen: np.ndarray) -> np.ndarray:
        """Levenshtein distances from a text to these spans (indices), in their order."""
        first, row = np.unique(self.starts[chosen], return_inverse=True)
        longest = np.zeros(len(first), int)
        np.maximum.at(longest, row, self.lengths[chosen])
        # The first lines with the longest spans come first: word w concerns the first `active[w]` of them.
        order = np.argsort(-longest, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        words = -(-longest[order] // _WORD)
        active = [int((words > w).sum()) for w in range(words[0])]
        begins = np.zeros(len(first), int)
        begins[row] = self.begins[chosen]
        rising, falling = self._last_column(text, begins[order], active)
        steps = np.bitwise_count(rising).astype(np.int32) - np.bitwise_count(falling)
        before = np.concatenate([np.zeros((1, len(first)), np.int32), np.cumsum(steps, axis=0, dtype=np.int32)])
        column, (word, rest) = place[row], np.divmod(self.lengths[chosen], _WORD)
        mask = (_ONE << rest.astype(np.uint64)) - _ONE
        last = np.minimum(word, len(active) - 1)  # without bits of its own where a span ends with its word
        own = np.bitwise_count(rising[last, column] & mask).astype(np.int32)
        own -= np.bitwise_count(falling[last, column] & mask)
        return len(text) + before[word, column] + own

    def _last_column(self, text: str, begins: np.ndarray, active: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Bits of the letters at which the distance to the whole text rises, and of those at which it falls, as
        (words, first lines)."""
        equal = self._equal(set(text), begins, active)
        rising = [np.full(n, ~np.uint64(0)) for n in active]
        falling = [np.zeros(n, np.uint64) for n in active]
        for letter in text:
            up: np.ndarray | None = None  # carries of the word above; the distance to no letters rises with the text
            down: np.ndarray | None = None
            for w, (vp, vn, x) in enumerate(zip(rising, falling, equal[letter], strict=True)):
                if down is not None:
                    x = x | down[: len(x)]
                d0 = x & vp
                d0 += vp
                d0 ^= vp
                d0 |= x
                d0 |= vn
                hp = d0 | vp
                np.invert(hp, out=hp)
                hp |= vn
                hn = d0 & vp
                next_up, next_down = (hp >> _TOP, hn >> _TOP) if w + 1 < len(active) else (None, None)
                hp <<= _ONE
                hn <<= _ONE
                if up is None or down is None:
                    hp |= _ONE
                else:
                    hp |= up[: len(hp)]
                    hn |= down[: len(hn)]
                np.bitwise_or(d0, hp, out=vp)
                np.invert(vp, out=vp)
                vp |= hn
                np.bitwise_and(hp, d0, out=vn)
                up, down = next_up, next_down
        shape = (len(active), len(begins))
        columns = np.zeros(shape, np.uint64), np.zeros(shape, np.uint64)
        for w, n in enumerate(active):
            columns[0][w, :n], columns[1][w, :n] = rising[w], falling[w]
        return columns

    def _equal(self, letters: set[str], begins: np.ndarray, active: list[int]) -> dict[str, list[np.ndarray]]:
        """For each letter and word, the bits at which the spans have this letter."""
        found: dict[str, list[np.ndarray]] = {letter: [] for letter in letters}
        begin, shift = begins // _WORD, (begins % _WORD).astype(np.uint64)
        for w, n in enumerate(active):
            low, high, right, left = begin[:n] + w, begin[:n] + w + 1, shift[:n], _TOP - shift[:n]
            for letter, words in found.items():
                bits = self._bits.get(letter, self._none)
                words.append((bits[low] >> right) | ((bits[high] << left) << _ONE))
        return found

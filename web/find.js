// Which of many known texts a recording contains: `downstream.find` in the browser, with the same ids and numbers.

import { freePath, likelihood } from "./ctc.js";
import { normalise } from "./text.js";

const SHORTEST = 3; // a greedy text with fewer letters finds nothing
const NEAR = 0.12; // candidates differ by at most so much more of their letters than the closest one
const CANDIDATES = 24; // at most so many are ranked by CTC where letters decide
const CELLS = 8000; // frames times candidates that are ranked where the likelihood decides,
const RANKED = [5, 100]; // but at least and at most so many candidates
// Frames in which the blank is likelier than this are merged before the ranking, up to so many.
const BLANK = 0.99;
const MERGED = 8;
// Being so many nats ahead of every other line counts as much as one nat a letter, up to the second number.
const RIVAL_NATS = 16;
const MOST_NATS = 32;
const WORD = 32;

const rounded = (value) => Math.round(value * 1e4) / 1e4;

/** A list of texts, prepared for searching. `spans`: the largest number of consecutive lines in one recording. */
export class Finder {
  constructor(texts, characters, { spans = 1, limits = {} } = {}) {
    this.texts = texts;
    this.characters = characters;
    this.index = new Map(characters.map((character, i) => [character, i]));
    this.limits = { likelihood: null, bonus: 0, share: 0.35, gap: 0.08, ...limits };
    this.bare = texts.texts.map((text) => text.replaceAll(" ", ""));
    this.starts = [];
    this.counts = [];
    this.lengths = [];
    for (let n = 1; n <= Math.min(spans, this.bare.length); n++) {
      for (let i = 0; i + n <= this.bare.length; i++) {
        this.starts.push(i);
        this.counts.push(n);
        this.lengths.push(n === 1 ? this.bare[i].length : this.lengths[this._span(i, n - 1)] + this.bare[i + n - 1].length);
      }
    }
    this.codes = this.bare.map((text) => Uint16Array.from(text, (letter) => letter.charCodeAt(0)));
  }

  /** The place of the span of `count` lines from line `start` on. */
  _span(start, count) {
    const lines = this.bare.length;
    return (count - 1) * lines - ((count - 1) * (count - 2)) / 2 + start;
  }

  /** Edit distances from a text to these spans, in their order. */
  distances(text, spans) {
    const most = new Map(); // first line -> most lines that are asked for
    for (const j of spans) most.set(this.starts[j], Math.max(most.get(this.starts[j]) ?? 0, this.counts[j]));
    const columns = new Column(text);
    const found = new Map();
    for (const [start, count] of most) found.set(start, columns.ends(this.codes.slice(start, start + count)));
    return spans.map((j) => found.get(this.starts[j])[this.counts[j] - 1]);
  }

  /**
   * The lines that explain log-probabilities (frames x characters) best, `greedy` being their best free path:
   * {ids, score, margin, best}. `ids` is empty where none of them fits; `best` is the nearest span in either case.
   */
  find(logProbs, greedy) {
    const nothing = { ids: [], score: null, margin: null, best: null };
    const heard = normalise(greedy).replaceAll(" ", "");
    if (heard.length < SHORTEST) return nothing;
    const near = [];
    this.lengths.forEach((length, j) => {
      if (length >= heard.length * 0.5 && length <= heard.length * 2 + 4) near.push(j);
    });
    if (!near.length) return nothing;
    const shares = this.distances(heard, near).map((d, i) => d / Math.max(this.lengths[near[i]], heard.length));
    const order = near.map((_, i) => i).sort((a, b) => shares[a] - shares[b] || a - b);
    if (this.limits.likelihood !== null) return this._likeliest(logProbs, near, order);
    let chosen = order.slice(0, CANDIDATES).filter((i) => shares[i] <= shares[order[0]] + NEAR);
    const margins = chosen.map((i) => this._margin(near, shares, i));
    if (Math.max(...margins) < 0) chosen = chosen.slice(0, 1); // none of them, whatever CTC says
    const { ratios, sizes } = this._ratios(logProbs, chosen.map((i) => near[i]));
    const scores = ratios.map((ratio, i) => ratio / sizes[i]);
    const best = highest(scores);
    return this._answer(near[chosen[best]], scores[best], margins[best]);
  }

  /** The first of the spans `near` by likelihood and bonus, if it is likely enough. */
  _likeliest(logProbs, near, order) {
    const frames = logProbs.length / this.characters.length;
    const count = Math.min(Math.max(Math.floor(CELLS / frames), RANKED[0]), RANKED[1]);
    const chosen = order.slice(0, count).map((i) => near[i]);
    const { ratios, sizes } = this._ratios(logProbs, chosen);
    const ranks = ratios.map((ratio, i) => ratio + this.limits.bonus * sizes[i]);
    const best = highest(ranks);
    let rival = -Infinity;
    chosen.forEach((j, i) => {
      if (this._isOther(j, chosen[best])) rival = Math.max(rival, ranks[i]);
    });
    const lead = Math.min(ranks[best] - rival, MOST_NATS);
    const score = ratios[best] / sizes[best];
    return this._answer(chosen[best], score, score + lead / RIVAL_NATS - this.limits.likelihood);
  }

  _answer(span, score, margin) {
    const lines = [];
    for (let i = 0; i < this.counts[span]; i++) lines.push(this.starts[span] + i);
    const ids = margin >= 0 ? lines.map((line) => this.texts.ids[line]) : [];
    return { ids, score: rounded(score), margin: rounded(margin), best: lines };
  }

  /** Whether two spans have no line in common, and different texts. */
  _isOther(a, b) {
    const apart = this.starts[a] >= this.starts[b] + this.counts[b] || this.starts[a] + this.counts[a] <= this.starts[b];
    return apart && this._string(a) !== this._string(b);
  }

  _string(span) {
    return this.bare.slice(this.starts[span], this.starts[span] + this.counts[span]).join("");
  }

  /** By how much a text keeps the limits: at least 0 if one of the two allows it. */
  _margin(near, shares, best) {
    let other = 1;
    near.forEach((j, i) => {
      if (shares[i] < other && this._isOther(j, near[best])) other = shares[i];
    });
    return Math.max(this.limits.share - shares[best], other - shares[best] - this.limits.gap);
  }

  /** Log-likelihood of each span's text minus that of the best free path, and the number of its characters. */
  _ratios(logProbs, spans) {
    const texts = spans.map((j) => this.texts.texts.slice(this.starts[j], this.starts[j] + this.counts[j]).join(" "));
    const sizes = texts.map((text) => text.length);
    const classes = this.characters.length;
    const merged = mergeBlanks(logProbs, classes);
    // Each letter needs a frame, equal neighbours a blank between them.
    const used = merged.length / classes > 2 * Math.max(...sizes) ? merged : logProbs;
    const free = freePath(used, classes);
    const known = new Map(); // texts that are repeated word for word have one score
    for (const text of texts) {
      if (!known.has(text)) {
        const target = [...text].map((letter) => this.index.get(letter));
        known.set(text, likelihood(used, classes, target) - free);
      }
    }
    return { ratios: texts.map((text) => known.get(text)), sizes };
  }
}

/** Log-probabilities (frames x classes) with fewer frames: `merge_blanks` of `downstream.find`. */
export function mergeBlanks(logProbs, classes) {
  const sure = Math.log(BLANK);
  const rows = []; // the blank's sum, then for each letter its logarithm of likelihood ratios to the blank
  let run = 0;
  for (let at = 0; at < logProbs.length; at += classes) {
    const blank = logProbs[at];
    run = blank > sure ? run + 1 : 0;
    if (run === 0 || run % MERGED === 1) rows.push(new Float64Array(classes).fill(-Infinity));
    const row = rows[rows.length - 1];
    if (row[0] === -Infinity) row[0] = 0;
    row[0] += blank;
    for (let c = 1; c < classes; c++) {
      const other = logProbs[at + c] - blank;
      const high = Math.max(row[c], other);
      row[c] = high + Math.log1p(Math.exp(Math.min(row[c], other) - high));
    }
  }
  const merged = new Float32Array(rows.length * classes);
  rows.forEach((row, t) => row.forEach((value, c) => (merged[t * classes + c] = c === 0 ? value : value + row[0])));
  return merged;
}

function highest(values) {
  let best = 0;
  values.forEach((value, i) => {
    if (value > values[best]) best = i;
  });
  return best;
}

/**
 * Distances from one text to growing others. A column of the dynamic programme is kept as bits (Myers, J. ACM 1999; words
 * with carries as in Hyyro, 2003).
 */
class Column {
  constructor(text) {
    this.length = text.length;
    this.words = Math.ceil(text.length / WORD);
    this.equal = new Map();
    [...text].forEach((letter, i) => {
      const code = letter.charCodeAt(0);
      if (!this.equal.has(code)) this.equal.set(code, new Int32Array(this.words));
      this.equal.get(code)[i >> 5] |= 1 << (i & 31);
    });
    this.none = new Int32Array(this.words);
    this.rising = new Int32Array(this.words);
    this.falling = new Int32Array(this.words);
  }

  /** The distances to the first line, to the first two together, and so on; lines as codes. */
  ends(lines) {
    const { words, rising, falling } = this;
    const top = (this.length - 1) & 31;
    rising.fill(-1);
    falling.fill(0);
    let distance = this.length;
    return lines.map((line) => {
      for (const code of line) {
        const equal = this.equal.get(code) ?? this.none;
        let up = 1; // the distance to no letters rises with the text
        let down = 0;
        for (let w = 0; w < words; w++) {
          const vp = rising[w];
          const vn = falling[w];
          const x = equal[w] | vn;
          const e = equal[w] | down;
          const d = ((((e & vp) + vp) | 0) ^ vp) | e;
          let hp = vn | ~(d | vp);
          let hn = vp & d;
          if (w === words - 1) distance += ((hp >>> top) & 1) - ((hn >>> top) & 1);
          const nextUp = hp >>> 31;
          const nextDown = hn >>> 31;
          hp = (hp << 1) | up;
          hn = (hn << 1) | down;
          rising[w] = hn | ~(x | hp);
          falling[w] = hp & x;
          up = nextUp;
          down = nextDown;
        }
      }
      return distance;
    });
  }
}

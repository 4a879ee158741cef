// What follows the encoder: the linear layer, log-probabilities, greedy text, and the likelihood of a given text.

const BLANK = 0;
const NOBODY = 20; // the blank's logit, those of the letters being 0, in a window where nobody speaks

/**
 * Logits (rows x characters) of every `stride`-th frame of states (frames x width): one linear layer; weight
 * (characters x width).
 */
export function project(states, frames, { weight, bias, width, stride = 1 }) {
  const characters = bias.length;
  const rows = Math.ceil(frames / stride);
  const logits = new Float32Array(rows * characters);
  for (let t = 0; t < rows; t++) {
    const row = states.subarray(t * stride * width, (t * stride + 1) * width);
    for (let c = 0; c < characters; c++) {
      const at = c * width;
      let sum = 0;
      for (let i = 0; i < width; i++) sum += row[i] * weight[at + i];
      logits[t * characters + c] = sum + bias[c];
    }
  }
  return logits;
}

/** Natural-log probabilities of each row of logits. */
export function logSoftmax(logits, characters) {
  const found = new Float32Array(logits.length);
  for (let at = 0; at < logits.length; at += characters) {
    let most = -Infinity;
    for (let c = 0; c < characters; c++) most = Math.max(most, logits[at + c]);
    let sum = 0;
    for (let c = 0; c < characters; c++) sum += Math.exp(logits[at + c] - most);
    const total = most + Math.log(sum);
    for (let c = 0; c < characters; c++) found[at + c] = logits[at + c] - total;
  }
  return found;
}

/** The likeliest class of each frame. */
export function argmax(values, characters) {
  const found = new Uint16Array(values.length / characters);
  for (let t = 0; t < found.length; t++) {
    const at = t * characters;
    let best = 0;
    for (let c = 1; c < characters; c++) if (values[at + c] > values[at + best]) best = c;
    found[t] = best;
  }
  return found;
}

/**
 * Logits of a window, or those of blanks alone if the mean probability of the likeliest character over the frames in which
 * it is not the blank is below `least`: a recogniser that hears noise writes letters, but is unsure of each.
 */
export function heard(logits, characters, least) {
  const logProbs = logSoftmax(logits, characters);
  let sum = 0;
  let letters = 0;
  argmax(logProbs, characters).forEach((value, t) => {
    if (value === BLANK) return;
    sum += Math.exp(logProbs[t * characters + value]);
    letters += 1;
  });
  if (!letters || sum / letters >= least) return logits;
  return logits.map((_, i) => (i % characters === BLANK ? NOBODY : 0));
}

/** The text of one class a frame: repeats merged, blanks dropped. */
export function bestPath(classes, characters) {
  return parts(classes, characters, classes.length)[0];
}

/** The same text in two parts: what the first `sure` frames say, and what the later ones add. */
export function parts(classes, characters, sure) {
  const found = ["", ""];
  let last = BLANK;
  classes.forEach((value, t) => {
    if (value !== last && value !== BLANK) found[t < sure ? 0 : 1] += characters[value];
    last = value;
  });
  const [first, second] = found.map((part) => part.replace(/ +/g, " "));
  const start = first.trimStart();
  const end = (/ $|^$/.test(start) ? second.trimStart() : second).trimEnd();
  return [end ? start : start.trimEnd(), end];
}

function logAdd(a, b) {
  if (a < b) [a, b] = [b, a];
  const gap = b - a;
  return gap < -40 || a === -Infinity ? a : a + Math.log1p(Math.exp(gap)); // below 1e-17 of the larger one
}

/** CTC log-likelihood of the classes `target` under log-probabilities; -Infinity where they do not fit the frames. */
export function likelihood(logProbs, characters, target) {
  const states = 2 * target.length + 1;
  const label = (s) => (s % 2 ? target[(s - 1) / 2] : BLANK);
  const labels = Int32Array.from({ length: states }, (_, s) => label(s));
  const skips = labels.map((value, s) => (s > 2 && s % 2 && value !== labels[s - 2] ? 1 : 0));
  const frames = logProbs.length / characters;
  let before = new Float64Array(states).fill(-Infinity);
  let now = new Float64Array(states);
  for (let t = 0; t < frames; t++) {
    const row = t * characters;
    // States outside of this range cannot be reached any more, or cannot reach the end.
    const first = Math.max(0, states - 2 * (frames - t));
    const end = Math.min(states, 2 * (t + 1));
    now.fill(-Infinity);
    for (let s = first; s < end; s++) {
      let sum;
      if (t === 0) sum = s < 2 ? 0 : -Infinity;
      else {
        sum = before[s];
        if (s > 0) sum = logAdd(sum, before[s - 1]);
        if (skips[s]) sum = logAdd(sum, before[s - 2]);
      }
      now[s] = sum + logProbs[row + labels[s]];
    }
    [before, now] = [now, before];
  }
  if (!frames) return target.length ? -Infinity : 0;
  return states === 1 ? before[0] : logAdd(before[states - 1], before[states - 2]);
}

/** Log-likelihood of the best path without a text. */
export function freePath(logProbs, characters) {
  let sum = 0;
  for (let at = 0; at < logProbs.length; at += characters) {
    let most = -Infinity;
    for (let c = 0; c < characters; c++) most = Math.max(most, logProbs[at + c]);
    sum += most;
  }
  return sum;
}

// The worker: loads the model, reads recordings and the microphone window by window, and searches the list of texts.

import { InputError } from "./audio.js";
import { argmax, bestPath, heard, logSoftmax, parts } from "./ctc.js";
import { Finder } from "./find.js";
import { Recogniser } from "./recogniser.js";
import { readTexts } from "./text.js";
import { Cutter, HOP, kept, SAMPLE_RATE, windowing } from "./windows.js";

const BLOCK = 10 * SAMPLE_RATE;
// Windows while the microphone is open. They are shorter than those of files, since the last one is read again and again.
const LIVE = { window: 8, context: 2 };
const EVERY = SAMPLE_RATE / 2; // new samples before the last window is read again, at least
const SEARCH_SHARE = 0.3; // of the time, at most, for searching while the microphone is open

let page; // page.json
let recogniser;
let finder = null;
let job = 0; // the newest one; older ones end at their next window
let live = null;
let latest = null; // {logProbs, text} of the recording that is shown, for a list that comes later

const now = () => performance.timeOrigin + performance.now();
const pause = (milliseconds = 0) => new Promise((done) => setTimeout(done, milliseconds));

function joined(blocks) {
  const whole = new Float32Array(blocks.reduce((sum, block) => sum + block.length, 0));
  let at = 0;
  for (const block of blocks) {
    whole.set(block, at);
    at += block.length;
  }
  return whole;
}

async function load({ url, threads }) {
  const started = now();
  const response = await fetch(url).catch(() => {
    throw new InputError("noServer", { url });
  });
  if (!response.ok) throw new InputError("missing", { url, status: response.status });
  page = await response.json();
  const progress = (bytes) => postMessage({ type: "loading", bytes, total: page.bytes });
  recogniser = await Recogniser.load(page, url, { threads, progress });
  if (page.texts) setFinder(page.texts, page.spans);
  postMessage({ type: "ready", seconds: (now() - started) / 1000, page, threads });
}

function setFinder(texts, spans) {
  finder = new Finder(texts, page.characters, { spans, limits: page.find });
}

function useList({ content, spans, name }) {
  if (content.trim()) setFinder(readTexts(content, page.characters), spans);
  else finder = null;
  if (live) live.searched = null;
  const match = latest && search(latest.logProbs, latest.text);
  postMessage({ type: "list", count: finder ? finder.texts.ids.length : 0, name, match });
}

/** The logits of the frames that a window adds, without letters where nobody speaks. */
async function logitsOf(window) {
  const characters = page.characters.length;
  const piece = kept(await recogniser.logits(window.samples), window, characters, page.stride);
  return heard(piece, characters, page.leastProbability);
}

/** The answer of the list for log-probabilities: ids and lines of the best span, or null without a list. */
function search(logProbs, text) {
  if (!finder) return null;
  const started = now();
  const found = finder.find(logProbs, text);
  const lines = (found.best ?? []).map((line) => ({ id: finder.texts.ids[line], text: finder.texts.lines[line] }));
  return { ...found, lines, seconds: (now() - started) / 1000 };
}

/** Read 16 kHz samples as Python's `Reader` does, in windows of 16 s; the text so far is posted after each of them. */
async function read({ id, samples, wantsLogits }) {
  job = id;
  const characters = page.characters.length;
  const cutter = new Cutter(windowing(page.squeeze));
  const pieces = [];
  const classes = [];
  const figures = { audio: samples.length / SAMPLE_RATE, compute: 0, first: null };
  const started = now();
  const run = async (window) => {
    await pause(); // let a message of the page arrive, which may end this job
    if (job !== id) return false;
    const before = now();
    const piece = await logitsOf(window);
    figures.compute += (now() - before) / 1000;
    figures.first ??= (now() - started) / 1000;
    pieces.push(piece);
    classes.push(...argmax(piece, characters));
    const done = Math.min(1, (classes.length * page.stride * HOP) / samples.length);
    postMessage({ type: "partial", id, sure: bestPath(classes, page.characters), tail: "", done });
    return true;
  };
  for (let at = 0; at < samples.length; at += BLOCK) {
    for (const window of cutter.push(samples.subarray(at, at + BLOCK))) if (!(await run(window))) return;
  }
  if (!(await run(cutter.rest()))) return;
  const logits = joined(pieces);
  const logProbs = logSoftmax(logits, characters);
  const text = bestPath(classes, page.characters);
  latest = { logProbs, text };
  const match = search(logProbs, text);
  postMessage({ type: "done", id, text, match, figures, logits: wantsLogits ? logits : null });
}

/** Read the microphone until `stop`: the last window again and again, inner windows once. */
async function listen({ id }) {
  job = id;
  const own = { id, blocks: [], waiting: [], last: 0, open: true, searched: null };
  live = own;
  const characters = page.characters.length;
  const cutter = new Cutter(windowing(page.squeeze, LIVE.window, LIVE.context));
  const pieces = [];
  let match = null;
  let resting = 0; // no search before this time
  while (own.open && job === id) {
    if (own.waiting.reduce((sum, block) => sum + block.length, 0) < EVERY) {
      await pause(30);
      continue;
    }
    const last = own.last;
    const before = now();
    const fresh = own.waiting.splice(0);
    own.blocks.push(...fresh); // all at once: `stop` may come while a window is read
    for (const block of fresh) {
      for (const window of cutter.push(block)) {
        pieces.push(await logitsOf(window));
      }
    }
    const sure = pieces.reduce((sum, piece) => sum + piece.length, 0) / characters;
    const rest = cutter.rest();
    const tail = await logitsOf(rest);
    const logits = joined([...pieces, tail]);
    const compute = (now() - before) / 1000;
    const classes = argmax(logits, characters);
    const [start, end] = parts(classes, page.characters, sure);
    const text = start + end;
    if (text !== own.searched && now() >= resting) {
      match = search(logSoftmax(logits, characters), text);
      if (match) resting = now() + (1000 * match.seconds) / SEARCH_SHARE;
      own.searched = text;
    }
    const figures = { audio: cutter.total / SAMPLE_RATE, compute, window: rest.samples.length / SAMPLE_RATE };
    if (job === id) postMessage({ type: "partial", id, sure: start, tail: end, match, heard: last, figures });
    await pause();
  }
}

function hear({ id, samples, at }) {
  if (live?.id !== id) return;
  live.waiting.push(samples);
  live.last = at;
}

/** Close the microphone and read the whole recording once more, as a file. */
async function stop({ id, next }) {
  if (live?.id !== id) return;
  const own = live;
  own.open = false;
  live = null;
  const samples = joined([...own.blocks, ...own.waiting]);
  await read({ id: next, samples, wantsLogits: false });
}

function cancel() {
  job = -1;
  live = latest = null;
}

const handlers = { load, list: useList, read, listen, hear, stop, cancel };

onmessage = async ({ data }) => {
  try {
    await handlers[data.type](data);
  } catch (error) {
    const known = typeof error.code === "string" && error.values;
    const memory = error instanceof RangeError || /memory|allocat/i.test(error.message);
    postMessage({
      type: "failed",
      on: data.type,
      id: data.next ?? data.id,
      code: known ? error.code : memory ? "memory" : "defect",
      values: known ? error.values : { reason: String(error.message ?? error) },
    });
  }
};

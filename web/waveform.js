// Draw a recording as bars: the whole of a file, or the last seconds of the microphone.

import { SAMPLE_RATE } from "./windows.js";

const PEAK = SAMPLE_RATE / 100; // samples in one value of the envelope
const BAR = 3; // CSS pixels of a bar, and
const GAP = 2; // between two
const LIVE_SECONDS = 20;

/** The envelope of a recording on a canvas. */
export class Waveform {
  constructor(canvas) {
    this.canvas = canvas;
    this.clear();
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Begin an empty recording; `live`: show its end, not the whole. */
  clear(live = false) {
    this.live = live;
    this.peaks = [];
    this.open = 0; // largest value of the samples that fill no peak yet, and
    this.filled = 0; // how many these are
    this.done = 0; // share that was read
    this.draw();
  }

  add(samples) {
    for (const value of samples) {
      this.open = Math.max(this.open, Math.abs(value));
      if (++this.filled === PEAK) {
        this.peaks.push(this.open);
        this.open = this.filled = 0;
      }
    }
    this.draw();
  }

  /** Mark the share of the recording that was read or played, 0 to 1. */
  mark(share) {
    this.done = share;
    this.draw();
  }

  draw() {
    const ratio = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width) return;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(this.canvas);
    const [accent, bar] = ["--accent", "--bar"].map((name) => style.getPropertyValue(name).trim());
    const bars = Math.floor((width + GAP) / (BAR + GAP));
    const most = LIVE_SECONDS * (SAMPLE_RATE / PEAK);
    const first = this.live ? Math.max(0, this.peaks.length - most) : 0;
    const span = this.live ? most : this.peaks.length;
    for (let i = 0; i < bars; i++) {
      const from = first + Math.floor((i * span) / bars);
      const to = Math.max(from + 1, first + Math.floor(((i + 1) * span) / bars));
      let peak = 0;
      for (let j = from; j < Math.min(to, this.peaks.length); j++) peak = Math.max(peak, this.peaks[j]);
      // Square root: soft speech stays visible beside a loud moment.
      const tall = Math.max(BAR, Math.sqrt(peak) * (height - 2));
      const read = this.live ? from < this.peaks.length : (i + 0.5) / bars <= this.done;
      pen.fillStyle = read && this.peaks.length ? accent : bar;
      pen.beginPath();
      pen.roundRect(i * (BAR + GAP), (height - tall) / 2, BAR, tall, BAR / 2);
      pen.fill();
    }
  }
}

/** A WAV file (16 bits) of 16 kHz samples, for the player. */
export function asWav(blocks) {
  const count = blocks.reduce((sum, block) => sum + block.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * count));
  const word = (at, text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  word(0, "RIFF");
  view.setUint32(4, 36 + 2 * count, true);
  word(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, SAMPLE_RATE, true);
  view.setUint32(28, 2 * SAMPLE_RATE, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  word(36, "data");
  view.setUint32(40, 2 * count, true);
  let at = 44;
  for (const block of blocks) {
    for (const value of block) {
      view.setInt16(at, Math.max(-32768, Math.min(32767, Math.round(value * 32768))), true);
      at += 2;
    }
  }
  return new Blob([view], { type: "audio/wav" });
}

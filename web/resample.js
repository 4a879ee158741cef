// Resample a stream of samples to 16 kHz, for browsers whose microphone cannot be read at this rate.

import { SAMPLE_RATE } from "./windows.js";

const LOBES = 24; // zero crossings of the sinc on each side
const PHASES = 256; // tabulated positions between two samples, with linear interpolation
const ROLLOFF = 0.94; // edge of the pass band, relative to the lower Nyquist frequency

/** A windowed sinc (Kaiser, beta 9). `push` takes blocks of any sizes and returns the samples that are complete. */
export class Resampler {
  constructor(rate) {
    this.step = rate / SAMPLE_RATE;
    this.cutoff = ROLLOFF * Math.min(1, SAMPLE_RATE / rate);
    this.half = Math.ceil(LOBES / this.cutoff);
    this.table = Float64Array.from({ length: this.half * PHASES + 2 }, (_, i) => this._kernel(i / PHASES));
    this.buffer = new Float32Array(this.half); // silence before the first sample
    this.next = this.half; // position of the next output in the buffer
  }

  _kernel(distance) {
    if (distance >= this.half) return 0;
    const x = Math.PI * this.cutoff * distance;
    const sinc = distance ? Math.sin(x) / x : 1;
    return this.cutoff * sinc * (bessel(9 * Math.sqrt(1 - (distance / this.half) ** 2)) / bessel(9));
  }

  push(block) {
    const joined = new Float32Array(this.buffer.length + block.length);
    joined.set(this.buffer);
    joined.set(block, this.buffer.length);
    const count = Math.max(0, Math.ceil((joined.length - this.half - this.next) / this.step));
    const found = new Float32Array(count);
    for (let n = 0; n < count; n++) {
      const centre = this.next + n * this.step;
      let sum = 0;
      const last = Math.min(joined.length - 1, Math.floor(centre + this.half));
      for (let i = Math.max(0, Math.ceil(centre - this.half)); i <= last; i++) {
        const at = Math.abs(i - centre) * PHASES;
        const low = Math.floor(at);
        sum += joined[i] * (this.table[low] + (at - low) * (this.table[low + 1] - this.table[low]));
      }
      found[n] = sum;
    }
    this.next += count * this.step;
    const drop = Math.max(0, Math.floor(this.next) - this.half);
    this.buffer = joined.slice(drop);
    this.next -= drop;
    return found;
  }
}

/** Modified Bessel function of the first kind, order 0. */
function bessel(x) {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > 1e-12 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

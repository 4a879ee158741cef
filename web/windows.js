// Cut 16 kHz samples into the overlapping windows of `upstream.model.chunked`, so that long audio gives Python's frames.

export const SAMPLE_RATE = 16000;
export const HOP = 320; // samples from one frame to the next
export const RECEPTIVE_FIELD = 400; // samples that one frame needs

/** Frames of `samples` samples at 16 kHz. */
export function frameCount(samples) {
  return samples < RECEPTIVE_FIELD ? 0 : Math.floor((samples - RECEPTIVE_FIELD) / HOP) + 1;
}

/**
 * Sizes in frames: windows of `window` seconds, of which the frames within `context` seconds of an inner edge are
 * discarded. `frames` is the number of 20 ms frames that must stay together (2 for squeezed models).
 */
export function windowing(frames = 1, window = 16, context = 1.5) {
  const windowFrames = Math.floor(Math.round(window * SAMPLE_RATE) / (HOP * frames)) * frames;
  const contextFrames = Math.ceil(Math.round(context * SAMPLE_RATE) / (HOP * frames)) * frames;
  if (windowFrames - 2 * contextFrames < frames) throw new RangeError("a window is too short for two contexts");
  return { windowFrames, contextFrames };
}

/** Takes blocks of samples of any sizes, and holds little more than one window. */
export class Cutter {
  constructor({ windowFrames, contextFrames }) {
    this.windowFrames = windowFrames;
    this.contextFrames = contextFrames;
    this.size = (windowFrames - 1) * HOP + RECEPTIVE_FIELD;
    this.buffer = new Float32Array(2 * this.size);
    this.have = 0; // samples in the buffer, from the start of the current window
    this.skip = 0;
    this.dropped = 0; // samples before the buffer
  }

  /** Add samples. Returns the inner windows that are complete: {samples, skip, keep}, frames of each. */
  push(block) {
    const found = [];
    for (let at = 0; at < block.length; ) {
      const part = block.subarray(at, at + this.buffer.length - this.have);
      this.buffer.set(part, this.have);
      this.have += part.length;
      at += part.length;
      // With one more frame in the buffer this is an inner window; only the last window keeps its end.
      while (this.have >= this.size + HOP) {
        const keep = this.windowFrames - this.contextFrames - this.skip;
        found.push({ samples: this.buffer.slice(0, this.size), skip: this.skip, keep });
        const step = (this.skip + keep - this.contextFrames) * HOP;
        this.buffer.copyWithin(0, step, this.have);
        this.have -= step;
        this.dropped += step;
        this.skip = this.contextFrames;
      }
    }
    return found;
  }

  /** The last window as it is now; it may be asked for again after more samples. `keep` null: all frames to its end. */
  rest() {
    return { samples: this.buffer.slice(0, this.have), skip: this.skip, keep: null };
  }

  /** Samples that were given. */
  get total() {
    return this.dropped + this.have;
  }
}

/** The part of a window's logits that is kept: `width` of them for every `stride` frames that `skip` and `keep` count. */
export function kept(logits, { skip, keep }, width, stride) {
  const start = (frame) => (frame / stride) * width;
  return logits.subarray(start(skip), keep === null ? undefined : start(skip + keep));
}

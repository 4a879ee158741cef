// The encoder in ONNX Runtime and its linear layer: samples of one window in, logits out.

import { InputError } from "./audio.js";
import { project } from "./ctc.js";
import { RECEPTIVE_FIELD } from "./windows.js";

/** A model with WASM SIMD: (func (result v128) i32.const 0 i8x16.splat i8x16.popcnt). */
const SIMD = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
);

/** Whether this browser runs WebAssembly with SIMD, without which ONNX Runtime cannot run. */
export function hasSimd() {
  return typeof WebAssembly === "object" && WebAssembly.validate(SIMD);
}

/** The bytes under a URL; `progress` receives those that have arrived. Raises InputError. */
async function fetchBytes(url, progress = () => {}) {
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new InputError("noServer", { url: url.pathname });
  }
  if (!response.ok) throw new InputError("missing", { url: url.pathname, status: response.status });
  const chunks = [];
  let size = 0;
  try {
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
      progress((size += value.length));
    }
  } catch {
    throw new InputError("noServer", { url: url.pathname });
  }
  const whole = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

export class Recogniser {
  constructor(session, Tensor, head) {
    this.session = session;
    this.Tensor = Tensor;
    this.head = head;
    this.running = Promise.resolve();
  }

  /**
   * Load the model of `page.json`, whose paths are relative to `base`; `threads` of ONNX Runtime (1 without cross-origin
   * isolation). Raises InputError, also where encoder and head do not belong together.
   */
  static async load(page, base, { threads = 1, progress } = {}) {
    if (!hasSimd()) throw new InputError("noSimd");
    if (page.encoderKey !== page.headKey) {
      throw new InputError("wrongHead", { head: page.head, encoder: page.name });
    }
    const folder = new URL(page.ort, base);
    const ort = await import(new URL("ort.wasm.min.mjs", folder));
    ort.env.wasm.wasmPaths = folder.href;
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    const [encoder, bytes] = await Promise.all([
      fetchBytes(new URL(page.encoder, base), progress),
      fetchBytes(new URL(page.weights, base)),
    ]);
    const characters = page.characters.length;
    const wanted = 4 * characters * (page.width + 1);
    if (bytes.length !== wanted) {
      throw new InputError("wrongHead", { head: page.head, encoder: page.name });
    }
    const values = new Float32Array(bytes.buffer);
    const head = {
      width: page.width,
      stride: page.stride,
      weight: values.subarray(0, characters * page.width),
      bias: values.subarray(characters * page.width),
    };
    let session;
    try {
      session = await ort.InferenceSession.create(encoder, { executionProviders: ["wasm"] });
    } catch (error) {
      throw new InputError("brokenModel", { name: page.name, reason: String(error.message ?? error) });
    }
    return new Recogniser(session, ort.Tensor, head);
  }

  /** Logits (rows x characters, one for every `stride` frames) of 16 kHz samples; fewer than 400 are padded to one frame. One call runs at a time. */
  logits(samples) {
    const found = this.running.then(() => this._run(samples));
    this.running = found.catch(() => {});
    return found;
  }

  async _run(samples) {
    const length = Math.max(samples.length, RECEPTIVE_FIELD);
    let wave = samples;
    if (samples.length < length) {
      wave = new Float32Array(length);
      wave.set(samples);
    }
    const feeds = { waveform: new this.Tensor("float32", wave, [1, length]) };
    if (this.session.inputNames.includes("lengths")) {
      feeds.lengths = new this.Tensor("int64", BigInt64Array.of(BigInt(length)), [1]);
    }
    const found = (await this.session.run(feeds, ["last_hidden_state"])).last_hidden_state;
    const [, frames, width] = found.dims;
    if (width !== this.head.width) throw new InputError("wrongWidth", { found: width, wanted: this.head.width });
    const logits = project(found.data, frames, this.head);
    found.dispose();
    return logits;
  }
}

// Decode a file to 16 kHz mono samples, with the rules of `corpora.audio` for channels and broken samples.

import { SAMPLE_RATE } from "./windows.js";

const CANCELLED = 0.5; // power of the average of the channels, relative to that of unrelated channels of the same power
const CANCELLED_SHARE = 0.05; // of a file's power, in seconds in which the channels cancel each other

/** What is wrong with an input; `code` names the message of strings.js, `values` fill it. */
export class InputError extends Error {
  constructor(code, values = {}) {
    super(code);
    this.code = code;
    this.values = values;
  }
}

/** The samples (n,) in [-1, 1] of a file that the browser can decode. Raises InputError. */
export async function decode(file) {
  let content;
  try {
    content = await file.arrayBuffer();
  } catch {
    throw new InputError("unreadable", { name: file.name });
  }
  if (!content.byteLength) throw new InputError("empty", { name: file.name });
  let decoded;
  try {
    // A context of this rate resamples while it decodes.
    decoded = await new OfflineAudioContext(1, 1, SAMPLE_RATE).decodeAudioData(content);
  } catch {
    throw new InputError("undecodable", { name: file.name });
  }
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, i) => decoded.getChannelData(i));
  const samples = mono(channels);
  if (!samples.length) throw new InputError("empty", { name: file.name });
  if (!samples.every(Number.isFinite)) throw new InputError("notFinite", { name: file.name });
  for (let i = 0; i < samples.length; i++) samples[i] = Math.min(1, Math.max(-1, samples[i]));
  return samples;
}

/** The average of the channels, or the louder one where the average would cancel them (opposite phase). */
export function mono(channels) {
  if (channels.length === 1) return channels[0];
  const louder = louderChannel(channels);
  if (louder !== null) return channels[louder];
  const average = new Float32Array(channels[0].length);
  for (const channel of channels) for (let i = 0; i < average.length; i++) average[i] += channel[i];
  for (let i = 0; i < average.length; i++) average[i] /= channels.length;
  return average;
}

function louderChannel(channels) {
  const power = new Float64Array(channels.length);
  let cancelled = 0;
  for (let start = 0; start < channels[0].length; start += SAMPLE_RATE) {
    const windows = channels.map((channel) => channel.subarray(start, start + SAMPLE_RATE));
    const own = windows.map(variance);
    const total = own.reduce((a, b) => a + b);
    const average = windows[0].map((_, i) => windows.reduce((sum, window) => sum + window[i], 0) / channels.length);
    if (variance(average) < (CANCELLED * total) / channels.length ** 2) cancelled += total * average.length;
    own.forEach((value, i) => (power[i] += value * average.length));
  }
  const whole = power.reduce((a, b) => a + b);
  if (!Number.isFinite(whole) || cancelled <= CANCELLED_SHARE * whole) return null;
  return power.indexOf(Math.max(...power));
}

function variance(values) {
  let sum = 0;
  let squares = 0;
  for (const value of values) sum += value;
  const mean = sum / values.length;
  for (const value of values) squares += (value - mean) ** 2;
  return squares / values.length;
}

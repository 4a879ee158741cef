// The microphone as a stream of 16 kHz samples.

import { InputError } from "./audio.js";
import { Resampler } from "./resample.js";
import { SAMPLE_RATE } from "./windows.js";

const REFUSED = { NotAllowedError: "micRefused", SecurityError: "micRefused", NotFoundError: "micMissing" };
// The model was trained on speech as it was recorded.
const AS_RECORDED = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };

/**
 * Ask for the microphone; `take` receives blocks of samples, `ended` is called when it is unplugged. Returns a function
 * that closes it. Raises InputError.
 */
export async function openMicrophone(take, ended) {
  if (!navigator.mediaDevices?.getUserMedia) throw new InputError("micUnsupported");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: AS_RECORDED });
  } catch (error) {
    throw new InputError(REFUSED[error.name] ?? "micBusy");
  }
  let context = new AudioContext({ sampleRate: SAMPLE_RATE });
  let source;
  try {
    source = context.createMediaStreamSource(stream);
  } catch {
    // Some browsers read a microphone at its own rate only.
    await context.close();
    context = new AudioContext();
    source = context.createMediaStreamSource(stream);
  }
  const resampler = context.sampleRate === SAMPLE_RATE ? null : new Resampler(context.sampleRate);
  await context.audioWorklet.addModule(new URL("./capture.js", import.meta.url));
  const capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  capture.port.onmessage = ({ data }) => take(resampler ? resampler.push(data) : data);
  source.connect(capture);
  stream.getTracks().forEach((track) => (track.onended = ended));
  await context.resume();
  return () => {
    source.disconnect();
    capture.port.onmessage = null;
    stream.getTracks().forEach((track) => track.stop());
    return context.close();
  };
}

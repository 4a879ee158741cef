// The page: controls, texts in two languages, and what the worker reports.

import { InputError, decode } from "./audio.js";
import { openMicrophone } from "./microphone.js";
import { hasSimd } from "./recogniser.js";
import { counted, number, say } from "./strings.js";
import { Waveform, asWav } from "./waveform.js";
import { SAMPLE_RATE } from "./windows.js";

const SHOWN_LINES = 500; // of a list in its field; longer lists are used without being shown
const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
const waveform = new Waveform($("wave"));
const languages = [query.get("lang"), stored("language"), navigator.language.slice(0, 2), "en"];

let language = languages.find((name) => name === "en" || name === "ar");
let worker = null;
let ready = false;
let job = 0; // number of the newest recording
let name = null; // of that recording: a file's name, or null for the microphone
let closeMicrophone = null;
let recorded = []; // blocks of the microphone
let address = null; // of the recording, for the player
let text = "";
let match = null;
let lines = 0; // in the list
let listName = null; // of a list that is too long for its field
let saved = false; // whether the page works without a network
const facts = {}; // figures by name
const waiting = new Map(); // calls of `harness.read` by the number of their recording
let status = ["statusPreparing", {}];
let alarm = null;
let waveLabel = ["waveEmpty", {}];

function stored(key, value) {
  try {
    if (value !== undefined) localStorage.setItem(key, value);
    return localStorage.getItem(key);
  } catch {
    return null; // a browser may forbid storage
  }
}

const t = (key, values) => say(language, key, values);
const n = (value, digits) => number(language, value, digits);
const megabytes = (bytes) => n(bytes / 1e6, 1);

function show() {
  document.documentElement.lang = language;
  document.documentElement.dir = language === "ar" ? "rtl" : "ltr";
  document.title = `HArnESS: ${t("title")}`;
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === language));
  }
  showStatus();
  showAlarm();
  showText();
  showMatch();
  showFigures();
}

/** Values of a message; names and numbers in the page's language, and names of files apart from their surroundings. */
function filled([key, values]) {
  const shown = { ...values };
  if ("name" in shown) shown.name = shown.name === null ? t("theMicrophone") : `\u2068${shown.name}\u2069`;
  for (const field of ["seconds", "size"]) if (field in shown) shown[field] = n(shown[field], 1);
  return t(key, shown);
}

function showStatus(key, values = {}) {
  if (key) status = [key, values];
  $("status").textContent = filled(status);
  $("wave").setAttribute("aria-label", filled(waveLabel));
}

function showAlarm(key, values = {}) {
  if (key !== undefined) alarm = key && [key, values];
  $("alarm").hidden = !alarm;
  const shown = alarm ? filled(alarm) : "";
  if ($("alarm").textContent !== shown) $("alarm").textContent = shown;
}

function showText(sure, tail = "") {
  if (sure !== undefined) {
    $("sure").textContent = sure;
    $("tail").textContent = tail;
    text = sure + tail;
  }
  $("copy").disabled = !text;
  const grey = $("tail").textContent;
  $("text-note").textContent = grey ? t("mayChange") : text ? "" : t(job && status[0] === "statusDone" ? "noSpeech" : "noText");
}

function showMatch() {
  const found = match?.ids?.length > 0;
  const list = $("match");
  list.replaceChildren(
    ...(match?.lines ?? []).map(({ id, text: line }) => {
      const item = document.createElement("li");
      const mark = document.createElement("bdi");
      const words = document.createElement("span");
      mark.textContent = id;
      words.textContent = line;
      words.lang = "ar";
      words.dir = "rtl";
      item.append(mark, words);
      return item;
    }),
  );
  list.hidden = !match?.lines?.length;
  list.classList.toggle("near", !found);
  let note;
  if (!lines) note = t("matchNoList");
  else if (!match) note = t("matchWaiting", { lines: counted(language, "lines", lines) });
  else if (found) note = t("matchFound", { score: n(match.score), margin: n(match.margin) });
  else if (match.best) note = t("matchNone", { margin: n(-match.margin) });
  else note = t("matchNothing");
  $("match-note").textContent = note;
  $("list-count").textContent = lines ? counted(language, "lines", lines) : t("listNone");
  $("list-remove").hidden = !lines;
  $("list").placeholder = listName ? t("listLong", { name: listName }) : "";
  turnList();
}

/** The field of the list follows its text, or the page where it is empty. */
function turnList() {
  $("list").dir = $("list").value ? "auto" : document.documentElement.dir;
}

function showFigures() {
  const { page, threads, loaded, audio, compute, first, delay, searched } = facts;
  const rows = [];
  if (page) {
    rows.push(["model", t("modelValue", { name: page.name, head: page.head })]);
    rows.push(["weights", t(page.precision === "int8" ? "weightsInt8" : "weightsFp32", { size: megabytes(page.bytes) })]);
    rows.push(["engine", t("engineValue", { threads: counted(language, "threads", threads) })]);
    rows.push(["loaded", t("seconds", { seconds: n(loaded) })]);
    rows.push(["offline", t(saved ? "offlineYes" : "offlineNo")]);
  }
  if (audio !== undefined) rows.push(["audio", t("seconds", { seconds: n(audio, 1) })]);
  if (compute !== undefined) {
    const over = facts.window ?? audio;
    rows.push(["compute", t("seconds", { seconds: n(compute) })]);
    rows.push(["speed", t("speedValue", { times: n(over / compute, 1), rtf: n(compute / over, 3) })]);
  }
  if (delay !== undefined) rows.push(["latency", t("latencyLive", { seconds: n(delay) })]);
  else if (first !== undefined) rows.push(["latency", t("latencyFile", { seconds: n(first) })]);
  if (searched !== undefined) rows.push(["searchTime", t("seconds", { seconds: n(searched) })]);
  $("figures").replaceChildren(
    ...rows.map(([key, value]) => {
      const row = document.createElement("div");
      const [term, meaning] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = t(key);
      meaning.textContent = value;
      row.dataset.figure = key;
      row.append(term, meaning);
      return row;
    }),
  );
}

function showControls() {
  const listening = closeMicrophone !== null;
  $("file").disabled = !ready || listening;
  $("microphone").disabled = !ready || listening;
  $("microphone").hidden = listening;
  $("stop").hidden = !listening && !$("stop").dataset.reading;
  $("stop").classList.toggle("live", listening);
  $("drop").hidden = listening;
}

function failed(error) {
  if (!(error instanceof InputError)) console.error(error);
  const [code, values] = error instanceof InputError ? [error.code, error.values] : ["defect", { reason: error.message }];
  showAlarm(code, values);
  $("progress").value = 0;
  finish();
  showStatus(ready ? "statusReady" : "statusStopped");
}

/** Forget the recording before, and begin a new one. Returns its number. */
function begin(newName) {
  worker.postMessage({ type: "cancel" });
  job += 1;
  name = newName;
  match = null;
  recorded = [];
  for (const key of ["audio", "compute", "first", "delay", "window", "searched"]) delete facts[key];
  $("player").pause();
  $("player").hidden = true;
  $("player").removeAttribute("src");
  if (address) URL.revokeObjectURL(address);
  address = null;
  $("progress").value = 0;
  waveform.clear();
  waveLabel = ["waveEmpty", {}];
  showAlarm(null);
  showText("");
  showMatch();
  showFigures();
  return job;
}

function finish() {
  $("text").setAttribute("aria-busy", "false");
  delete $("stop").dataset.reading;
  showControls();
}

function play(blob) {
  address = URL.createObjectURL(blob);
  $("player").src = address;
  $("player").hidden = false;
}

async function openFile(file) {
  if (!ready || closeMicrophone) return;
  const own = begin(file.name);
  showStatus("statusDecoding", { name });
  try {
    const samples = await decode(file);
    if (own !== job) return;
    play(file);
    readSamples(own, samples);
  } catch (error) {
    if (own === job) failed(error);
  }
}

function readSamples(own, samples, wantsLogits = false) {
  waveform.clear();
  waveform.add(samples);
  waveLabel = ["waveFile", { name, seconds: samples.length / SAMPLE_RATE }];
  showStatus("statusReading", { name, percent: 0 });
  $("stop").dataset.reading = "yes";
  showControls();
  $("text").setAttribute("aria-busy", "true");
  worker.postMessage({ type: "read", id: own, samples, wantsLogits }, [samples.buffer]);
}

async function listen() {
  const own = begin(null);
  waveform.clear(true);
  waveLabel = ["waveLive", {}];
  showStatus("statusAsking");
  $("microphone").disabled = $("file").disabled = true;
  worker.postMessage({ type: "listen", id: own });
  try {
    const close = await openMicrophone((samples) => {
      if (own !== job) return;
      recorded.push(samples);
      waveform.add(samples);
      worker.postMessage({ type: "hear", id: own, samples, at: performance.timeOrigin + performance.now() });
    }, stop);
    closeMicrophone = close;
    $("text").setAttribute("aria-busy", "true");
    showStatus("statusListening");
    showControls();
    $("stop").focus();
  } catch (error) {
    worker.postMessage({ type: "cancel" });
    failed(error);
  }
}

/** End what runs: the microphone, or the reading of a file. */
async function stop() {
  if (!closeMicrophone) {
    worker.postMessage({ type: "cancel" });
    job += 1;
    finish();
    showStatus("statusStopped");
    return;
  }
  const close = closeMicrophone;
  closeMicrophone = null;
  const own = job;
  job += 1;
  await close();
  if (!recorded.length) {
    worker.postMessage({ type: "cancel" });
    failed(new InputError("empty", { name: null }));
    return;
  }
  waveform.clear();
  for (const block of recorded) waveform.add(block);
  const seconds = recorded.reduce((sum, block) => sum + block.length, 0) / SAMPLE_RATE;
  waveLabel = ["waveFile", { name, seconds }];
  play(asWav(recorded));
  delete facts.delay;
  delete facts.window;
  showStatus("statusFinal");
  $("stop").dataset.reading = "yes";
  showControls();
  $("microphone").focus();
  worker.postMessage({ type: "stop", id: own, next: job });
}

const reports = {
  loading({ bytes, total }) {
    showStatus(bytes < total ? "statusLoading" : "statusPreparing", { size: bytes / 1e6 });
    $("progress").value = bytes / total;
  },
  ready({ page, threads, seconds }) {
    Object.assign(facts, { page, threads, loaded: seconds });
    lines = page.texts?.ids.length ?? 0;
    listName = page.textsName ?? null;
    $("spans").value = page.spans ?? 1;
    ready = true;
    $("progress").value = 0;
    showStatus("statusReady");
    showControls();
    showMatch();
    showFigures();
    keepOffline();
  },
  list({ count, name: longName, match: found }) {
    lines = count;
    listName = longName;
    match = found;
    showAlarm(null);
    showMatch();
  },
  partial({ id, sure, tail, match: found, done, heard, figures }) {
    if (id !== job) return;
    showText(sure, tail);
    if (done !== undefined) {
      $("progress").value = done;
      waveform.mark(done);
      if (status[0] === "statusReading") showStatus("statusReading", { name, percent: Math.floor(100 * done) });
    }
    if (figures) {
      Object.assign(facts, figures, { delay: (performance.timeOrigin + performance.now() - heard) / 1000 });
      match = found;
      if (match) facts.searched = match.seconds;
      showMatch();
      showFigures();
    }
  },
  done({ id, text: whole, match: found, figures, logits }) {
    waiting.get(id)?.done({ text: whole, match: found, figures, logits });
    waiting.delete(id);
    if (id !== job) return;
    Object.assign(facts, figures);
    match = found;
    if (match) facts.searched = match.seconds;
    $("progress").value = 1;
    waveform.mark(1);
    showStatus("statusDone", { name });
    showText(whole);
    showMatch();
    showFigures();
    finish();
  },
  failed({ on, id, code, values }) {
    const error = new InputError(code, values);
    waiting.get(id)?.failed(error);
    waiting.delete(id);
    if (on === "list") showAlarm(code, values);
    else if (on === "load" || id === job) {
      closeMicrophone?.();
      closeMicrophone = null;
      failed(error);
    }
  },
};

async function keepOffline() {
  if (!navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register(new URL(document.baseURI).pathname.replace(/[^/]*$/, "sw.js"));
    await navigator.serviceWorker.ready;
    saved = true;
    showFigures();
  } catch (error) {
    console.warn("the page is not kept for use without a network:", error);
  }
}

function start() {
  if (!hasSimd()) {
    failed(new InputError("noSimd"));
    return;
  }
  const cores = navigator.hardwareConcurrency || 1;
  const wanted = Number(query.get("threads")) || Math.min(4, cores);
  const threads = globalThis.crossOriginIsolated ? wanted : 1; // threads share memory, which needs isolation
  worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => reports[data.type](data);
  worker.onerror = (event) => {
    event.preventDefault();
    ready = false;
    failed(event.message ? new Error(event.message) : new InputError("noWorker"));
  };
  worker.postMessage({ type: "load", url: new URL("./page.json", import.meta.url).href, threads });
}

function useList(content, longName = null) {
  const spans = Math.max(1, Number($("spans").value) || 1);
  worker?.postMessage({ type: "list", content, spans, name: longName });
}

async function openList(file) {
  try {
    const content = await file.text();
    const short = content.split("\n").length <= SHOWN_LINES;
    $("list").value = short ? content : "";
    useList(content, short ? null : file.name);
  } catch {
    showAlarm("unreadable", { name: file.name });
  }
}

for (const button of document.querySelectorAll("[data-language]")) {
  button.onclick = () => {
    language = button.dataset.language;
    stored("language", language);
    show();
  };
}
$("file").onchange = () => {
  const [file] = $("file").files;
  if (file) openFile(file);
  $("file").value = ""; // the same file can be chosen again
};
$("microphone").onclick = listen;
$("stop").onclick = stop;
$("copy").onclick = async () => {
  try {
    await navigator.clipboard.writeText(text);
    showStatus("copied");
  } catch {
    showStatus("notCopied");
  }
};
$("list").oninput = turnList;
$("list-use").onclick = () => {
  if ($("list").value.trim()) useList($("list").value);
  else showAlarm("listEmpty");
};
$("list-remove").onclick = () => {
  $("list").value = "";
  useList("");
};
$("list-file").onchange = () => {
  const [file] = $("list-file").files;
  if (file) openList(file);
  $("list-file").value = "";
};
$("player").ontimeupdate = () => {
  const { currentTime, duration } = $("player");
  if (!$("stop").dataset.reading && duration) waveform.mark($("player").ended ? 1 : currentTime / duration);
};
addEventListener("dragover", (event) => {
  event.preventDefault();
  $("input").classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("input").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  $("input").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) openFile(file);
});

show();
start();

/** For tests and benchmarks: read 16 kHz samples as a file is read; the answer holds text, match, figures and logits. */
globalThis.harness = {
  isReady: () => ready,
  isSaved: () => saved,
  read: (samples) => {
    const own = begin("samples");
    const answer = new Promise((done, refused) => waiting.set(own, { done, failed: refused }));
    readSamples(own, samples, true);
    return answer;
  },
};

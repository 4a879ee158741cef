// Service worker: keeps the files of this version, so that the page works without a network after its first load.

// `python -m downstream web` replaces both values.
const VERSION = "source";
const FILES = ["./"];

const CACHE = `harness-${VERSION}`;

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll(FILES))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(
    caches
      .keys()
      .then((names) => names.filter((name) => name.startsWith("harness-") && name !== CACHE))
      .then((old) => Promise.all(old.map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method !== "GET" || new URL(request.url).origin !== self.location.origin) return;
  if (request.mode === "navigate") {
    // The page itself comes from the server where there is one, since it names the files of the newest version.
    event.respondWith(fetch(request).catch(() => caches.match("./", { ignoreSearch: true })));
  } else {
    event.respondWith(caches.match(request).then((found) => found ?? fetch(request)));
  }
});

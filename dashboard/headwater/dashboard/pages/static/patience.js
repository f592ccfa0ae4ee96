// A page may lose a part of itself while it loads, or its socket: a browser drops what is under way when the machine's
// network changes, and tells of a lost socket only 20 s later. Such a page is loaded again, and says why it waits where
// that does not help. It gives up nothing: whoever is let in later has the page by itself.
const patience = {
  LOOK_EVERY_MS: 1000,
  // How long nothing may come before the page is loaded anew for the first time, and for the second.
  WAITS_MS: [5000, 24000],
  KEY: "headwater-loaded-again",
  // What a part that did not arrive leaves behind is an element with the part's name, which no browser knows.
  isWhole: () =>
    document.querySelector(".hw-main:not(:has(> .hw-waiting))") !== null &&
    ![...document.getElementById("app").querySelectorAll("*")].some((element) => element.localName.startsWith("nicegui-")),
  since: performance.now(),
  asking: false,
  look() {
    if (patience.isWhole()) {
      sessionStorage.removeItem(patience.KEY);
      patience.since = performance.now();
      return;
    }
    const again = Number(sessionStorage.getItem(patience.KEY) || 0);
    const wait = patience.WAITS_MS[Math.min(again, patience.WAITS_MS.length - 1)];
    if (!patience.asking && performance.now() - patience.since > wait) patience.knock(again);
  },
  async knock(again) {
    patience.asking = true;
    try {
      const answer = await fetch("/knock", { method: "POST" });
      if (!answer.ok) patience.say(await answer.text());
      else if (again < patience.WAITS_MS.length) {
        sessionStorage.setItem(patience.KEY, again + 1);
        window.location.reload();
      } else patience.say("The dashboard answers, but this page has no connection to it: is there a proxy between that lets no websockets through? It is tried again all the time.");
    } catch {
      patience.say("The dashboard does not answer. It is tried again all the time.");
    }
    patience.since = performance.now();
    patience.asking = false;
  },
  say(text) {
    const waiting = document.querySelector(".hw-waiting") || document.getElementById("esm-fallback");
    if (waiting) waiting.textContent = text;
  },
};
window.addEventListener("load", () => {
  patience.since = performance.now();
  window.setInterval(patience.look, patience.LOOK_EVERY_MS);
});

// What has to be known before the first paint, and what only the browser knows: its scheme, its zone, its choice.
const hw = {
  scheme: window.matchMedia("(prefers-color-scheme: dark)"),
  choice: () => localStorage.getItem("headwater-theme") || "auto",
  isDark: () => (hw.choice() === "auto" ? hw.scheme.matches : hw.choice() === "dark"),
  paint: () => (document.documentElement.dataset.theme = hw.isDark() ? "dark" : "light"),
  choose(choice) {
    localStorage.setItem("headwater-theme", choice);
    hw.paint();
    return hw.surroundings();
  },
  surroundings: () => ({
    choice: hw.choice(),
    dark: hw.isDark(),
    zone: Intl.DateTimeFormat().resolvedOptions().timeZone,
  }),
};
hw.paint();
hw.scheme.addEventListener("change", () => {
  hw.paint();
  emitEvent("scheme", hw.surroundings());
});

// Before the first paint: the colours that were chosen last, so that nothing flashes.
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  /* a browser that keeps nothing follows the system */
}

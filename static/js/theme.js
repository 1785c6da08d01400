// A classic script in the head: the theme must stand before the first paint.
"use strict";
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("pilgrimage.theme");
  } catch {
    // Storage may be switched off; the system's preference then decides.
  }
  if (chosen === "dark" || chosen === "light") {
    document.documentElement.dataset.theme = chosen;
  }
})();

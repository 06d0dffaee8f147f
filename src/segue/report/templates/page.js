"use strict";
(function () {
  const content = JSON.parse(document.getElementById("segue-data").textContent);
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(pointer: coarse)").matches;
  const narrow = window.matchMedia("(max-width: 600px)");
  const drawn = new Set();

  function stored() {
    try { return window.localStorage.getItem("segue-theme"); } catch (error) { return null; }
  }
  function isDark() {
    const chosen = root.dataset.theme;
    return chosen ? chosen === "dark" : system.matches;
  }
  // Figures are made in the light palette; only values under a key that names a colour change.
  function recolour(value, dark, isColour) {
    if (typeof value === "string") {
      return isColour && dark && Object.hasOwn(content.dark, value) ? content.dark[value] : value;
    }
    if (Array.isArray(value)) return value.map((item) => recolour(item, dark, isColour));
    if (value && typeof value === "object") {
      const copy = {};
      for (const [key, item] of Object.entries(value)) {
        copy[key] = recolour(item, dark, key.toLowerCase().includes("color"));
      }
      return copy;
    }
    return value;
  }
  function draw(element) {
    const figure = content.figures[element.id];
    const shown = recolour(figure, isDark(), false);
    shown.layout.autosize = true;
    if (touch) shown.layout.dragmode = false;
    if (narrow.matches) {  // a key above the figure stands for the labels beside its lines
      const notes = shown.layout.annotations || [];
      shown.layout.annotations = notes.filter((note) => note.name !== "end-label");
      shown.layout.margin.r = 14;
    }
    drawn.add(element);
    window.Plotly.react(element, shown.data, shown.layout, {
      responsive: true, displaylogo: false, displayModeBar: false,
    });
  }
  function setTheme(name) {
    if (name) root.dataset.theme = name; else delete root.dataset.theme;
    const button = document.getElementById("theme");
    button.textContent = isDark() ? "Light theme" : "Dark theme";
    drawn.forEach(draw);
  }
  function download(name) {
    const link = document.createElement("a");
    const blob = new Blob(["\ufeff", content.files[name]], { type: "text/csv;charset=utf-8" });
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // Figures are drawn when they come near the window: a phone need not draw all at once.
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting && !drawn.has(entry.target)) draw(entry.target);
    }
  }, { rootMargin: "800px" });
  document.querySelectorAll(".plot").forEach((element) => watcher.observe(element));
  document.querySelectorAll("button[data-file]").forEach((button) => {
    button.addEventListener("click", () => download(button.dataset.file));
  });
  document.getElementById("theme").addEventListener("click", () => {
    const name = isDark() ? "light" : "dark";
    try { window.localStorage.setItem("segue-theme", name); } catch (error) { /* private window */ }
    setTheme(name);
  });
  system.addEventListener("change", () => setTheme(root.dataset.theme || null));
  narrow.addEventListener("change", () => drawn.forEach(draw));
  const saved = stored();
  setTheme(saved === "dark" || saved === "light" ? saved : null);
})();

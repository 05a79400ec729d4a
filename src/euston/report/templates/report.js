"use strict";
// Draws every chart of the page in the page's own colours, and again when the reader switches light and dark.
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function themed(layout) {
    const text = colour("--text"), grid = colour("--line"), muted = colour("--muted");
    const copy = Object.assign({}, layout);
    copy.paper_bgcolor = copy.plot_bgcolor = "rgba(0,0,0,0)";
    copy.font = { family: colour("--sans"), size: 13, color: text };
    copy.hoverlabel = { bgcolor: colour("--card"), bordercolor: grid, font: { family: colour("--sans"), size: 13, color: text }, align: "left" };
    for (const axis of ["xaxis", "yaxis"]) {
      copy[axis] = Object.assign({ gridcolor: grid, linecolor: grid, tickcolor: grid }, layout[axis]);
      copy[axis].tickfont = { color: axis === "yaxis" && layout[axis].autorange === "reversed" ? text : muted };
      if (layout[axis].title) {
        copy[axis].title = { text: layout[axis].title.text, font: { color: muted, size: 12 } };
      }
    }
    return copy;
  }

  async function draw() {
    for (const place of document.querySelectorAll("[data-figure]")) {
      const name = place.dataset.figure, figure = figures[name];
      const zooms = name === "timeline";
      await Plotly.react(place, figure.data, themed(figure.layout), {
        responsive: true,
        displaylogo: false,
        displayModeBar: zooms ? "hover" : false,
        modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
        scrollZoom: false,
      });
    }
    document.documentElement.dataset.drawn = "yes";
  }

  dark.addEventListener("change", draw);
  draw();
})();

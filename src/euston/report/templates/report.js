"use strict";
// Draws every chart of the page in the page's own colours, and again when the reader switches light and dark.
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const MAX_BARS = 5000; // of the detailed timeline, drawn smoothly

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function themed(layout) {
    const text = colour("--text"), grid = colour("--line"), muted = colour("--muted"), sans = colour("--sans");
    const copy = Object.assign({}, layout);
    copy.paper_bgcolor = copy.plot_bgcolor = "rgba(0,0,0,0)";
    copy.font = { family: sans, size: 13, color: text };
    copy.hoverlabel = { bgcolor: colour("--card"), bordercolor: grid, font: { family: sans, size: 13, color: text }, align: "left" };
    copy.modebar = { bgcolor: "rgba(0,0,0,0)", color: muted, activecolor: text };
    if (layout.annotations) {
      copy.annotations = layout.annotations.map((a) => Object.assign({ bgcolor: colour("--card"), borderpad: 1 }, a));
    }
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
      copy[axis] = Object.assign({ gridcolor: grid, linecolor: grid, tickcolor: grid }, layout[axis]);
      const names = axis.startsWith("yaxis") && (layout[axis].autorange === "reversed" || layout[axis].ticktext);
      copy[axis].tickfont = { color: names ? text : muted };
      if (layout[axis].title) {
        copy[axis].title = { text: layout[axis].title.text, font: { color: muted, size: 12 } };
      }
    }
    return copy;
  }

  // The timeline's operations between two times, one trace per kind as in the overview; null when there are too many.
  function detailed(figure, from, to) {
    const d = figure.detail, chosen = [];
    for (let i = 0; i < d.start.length && d.start[i] <= to; i++) {
      if (d.start[i] + d.length[i] >= from) {
        chosen.push(i);
        if (chosen.length > MAX_BARS) return null;
      }
    }
    return figure.data.map((trace, kind) => {
      const own = chosen.filter((i) => d.kind[i] === kind);
      const pick = (column) => own.map((i) => column[i]);
      return Object.assign({}, trace, {
        y: pick(d.y), x: pick(d.length), base: pick(d.start), width: pick(d.width),
        hovertext: own.map((i) => {
          let text = "<b>" + d.names[d.name[i]] + "</b><br>" + d.actors[d.actor[i]] + " · " + d.streams[d.stream[i]];
          if (d.micro_batch && d.micro_batch[i] >= 0) text += "<br>micro-batch " + d.micro_batch[i];
          if (d.chunk && d.chunk[i] >= 0) text += (d.micro_batch && d.micro_batch[i] >= 0 ? ", chunk " : "<br>chunk ") + d.chunk[i];
          return text + "<br>from " + (d.start[i] * 1e3).toFixed(2) + " ms, " + (d.length[i] * 1e3).toPrecision(3) + " ms long";
        }),
      });
    });
  }

  function inView(place, figure) {
    const whole = figure.layout.xaxis.range, now = (place.layout && place.layout.xaxis.range) || whole;
    const shown = Math.abs(now[1] - now[0]);
    if (!figure.detail || shown > 0.5 * (whole[1] - whole[0])) return figure.data;
    return detailed(figure, Math.min(now[0], now[1]), Math.max(now[0], now[1])) || figure.data;
  }

  async function drawOne(place) {
    const figure = figures[place.dataset.figure], zooms = place.dataset.figure === "timeline";
    await Plotly.react(place, zooms ? inView(place, figure) : figure.data, themed(figure.layout), {
      responsive: true,
      displaylogo: false,
      displayModeBar: zooms ? "hover" : false,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    });
    if (zooms && figure.detail && !place.dataset.follows) {
      place.dataset.follows = "yes";
      place.on("plotly_relayout", () => drawOne(place));
    }
  }

  async function draw() {
    for (const place of document.querySelectorAll("[data-figure]")) await drawOne(place);
    document.documentElement.dataset.drawn = "yes";
  }

  dark.addEventListener("change", draw);
  draw();
})();

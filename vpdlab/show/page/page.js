// A notebook as a page: draws the plotly figures in the reader's colours and folds the code.
(() => {
  "use strict";
  const dark = matchMedia("(prefers-color-scheme: dark)");

  // Colours go into the template, under whatever the figure itself sets.
  function themed(layout) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const template = layout.template ?? {};
    const base = template.layout ?? {};
    const axis = {
      gridcolor: colour("--jp-border-color3"),
      linecolor: colour("--jp-border-color1"),
      zerolinecolor: colour("--jp-border-color1"),
    };
    const look = {
      ...base,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { ...base.font, color: colour("--jp-content-font-color1") },
      xaxis: { ...base.xaxis, ...axis },
      yaxis: { ...base.yaxis, ...axis },
    };
    return { ...structuredClone(layout), template: { ...template, layout: look } };
  }

  // plotly.js is most of a page's bytes, so it travels deflated; the page's policy allows scripts from such blobs.
  let loaded = null;
  async function loadPlotly() {
    const packed = document.querySelector("script#vpd-plotly").textContent;
    const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const source = await new Response(stream).arrayBuffer();
    const script = document.createElement("script");
    script.src = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    await new Promise((done, failed) => {
      script.onload = done;
      script.onerror = () => failed(new Error("plotly.js did not load"));
      document.head.append(script);
    });
    URL.revokeObjectURL(script.src);
  }

  // Beside plotly's own button, which saves a PNG: the drawing as SVG, and its numbers.
  function files() {
    const { disk, camera } = Plotly.Icons;
    return [
      { name: "svg", title: "Download plot as an SVG", icon: camera, click: (place) => Plotly.downloadImage(place, { format: "svg" }) },
      { name: "csv", title: "Download the numbers as CSV", icon: disk, click: (place) => saveNumbers(place, "csv") },
      { name: "json", title: "Download the numbers as JSON", icon: disk, click: (place) => saveNumbers(place, "json") },
    ];
  }

  function saveNumbers(place, kind) {
    const rows = place._fullData.flatMap(({ name, x, y = [], x0 = 0, dx = 1 }) =>
      Array.from({ length: Math.max(x?.length ?? 0, y.length) }, (_, i) => ({ line: name, x: x ? x[i] : x0 + i * dx, y: y[i] })),
    ); // numbers that travelled as bytes are arrays there
    saveRows("figure", kind, rows);
  }

  async function draw(place, { data, layout = {}, config = {} }) {
    await (loaded ??= loadPlotly());
    const options = { responsive: true, displaylogo: false, modeBarButtonsToAdd: files(), ...config };
    return Plotly.react(place, structuredClone(data), themed(layout), options);
  }

  const source = document.querySelector("script#vpd-figures"); // no element that text in the page might hold
  const figures = source ? JSON.parse(source.textContent) : [];
  for (const place of document.querySelectorAll(".vpd-plot[data-vpd-figure]")) {
    const figure = figures[Number(place.dataset.vpdFigure)];
    const show = async () => {
      try {
        await draw(place, figure);
      } catch (error) {
        console.error(error);
        place.textContent = `This figure could not be drawn: ${error.message}`;
      }
    };
    show();
    dark.addEventListener("change", show);
  }

  const button = document.querySelector(".vpd-all-code");
  button?.addEventListener("click", () => {
    const open = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(open));
    for (const code of document.querySelectorAll(".vpd-code")) code.open = open;
  });
})();

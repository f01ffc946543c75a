// Keys, the jump dialog, live figures and charts. Pages work without it.
"use strict";
(() => {
  const dialog = () => document.getElementById("jump");
  const typing = (element) => element.matches("input:not([type=radio]), textarea, select, [contenteditable]");

  // Each control names its key as data-key. Rows of a table are walked with j and k.
  const walk = (step) => {
    const links = [...document.querySelectorAll("tbody a.row-link")];
    if (!links.length) return;
    const at = links.indexOf(document.activeElement);
    links[Math.min(links.length - 1, Math.max(0, at + step))].focus();
  };
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      dialog()?.showModal();
      return;
    }
    if (event.key === "Escape" && typing(event.target) && !dialog()?.open) return event.target.blur();
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target) || dialog()?.open) return;
    if (event.key === "j" || event.key === "k") return walk(event.key === "j" ? 1 : -1);
    const control = [...document.querySelectorAll("[data-key]")].find((one) => one.dataset.key === event.key);
    if (!control) return;
    event.preventDefault();
    if (typing(control)) control.focus();
    else control.click();
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-jump]")) dialog()?.showModal();
    if (event.target === dialog()) dialog().close();
  });
  // A form is sent once. The server would write one decision for two requests; this spares the second.
  document.addEventListener("submit", (event) => {
    if (event.defaultPrevented) return;
    const form = event.target;
    if (form.dataset.sent) return event.preventDefault();
    if (form.method !== "post") return;
    form.dataset.sent = "yes";
    setTimeout(() => delete form.dataset.sent, 5000);
  });
  window.addEventListener("pageshow", () => document.querySelectorAll("form").forEach((one) => delete one.dataset.sent));

  // A part of the page that did not load leaves the page as it is, and says why.
  const failed = (text) => {
    const place = document.getElementById("failed");
    place.textContent = text;
    place.hidden = !text;
    if (text) place.scrollIntoView({ block: "nearest" });
  };
  document.addEventListener("htmx:response:error", (event) => {
    const answer = new DOMParser().parseFromString(event.detail.ctx.text, "text/html");
    failed(answer.querySelector("main p")?.textContent || "The console could not answer. Try again in a minute.");
  });
  document.addEventListener("htmx:error", () => failed("The console does not answer. Try again in a minute."));
  document.addEventListener("htmx:before:request", () => failed(""));
  document.addEventListener("htmx:after:swap", () => { // the revealed text takes the focus of the button that is gone
    if (document.activeElement === document.body) document.querySelector("#text .text")?.focus({ preventScroll: true });
  });

  // Figures reload when the server says that something changed.
  const live = document.querySelector("[data-live]");
  if (live) {
    const source = new EventSource(live.dataset.live);
    source.addEventListener("changed", () => {
      const at = document.activeElement; // somebody who fills in a field is left alone
      if (!document.hidden && !(live.contains(at) && typing(at))) htmx.trigger(live, "changed");
    });
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) failed("These figures are not live any more. Load the page once more.");
    });
    window.addEventListener("pagehide", () => source.close());
  }

  // A chart draws the table that it names: first column times, then one series each.
  const charts = new WeakMap();
  const draw = (place) => {
    const table = document.getElementById(place.dataset.chart);
    if (!table) return;
    const names = [...table.querySelectorAll("thead th")].map((one) => one.textContent.trim());
    const rows = [...table.querySelectorAll("tbody tr")].map((row) =>
      [...row.querySelectorAll("[data-value]")].map((one) => Number(one.dataset.value)));
    if (!rows.length) return;
    const columns = names.map((_, index) => rows.map((row) => row[index]));
    if (charts.has(place)) return charts.get(place).setData(columns);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const said = place.nextElementSibling;
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
    // Times in UTC, as in the table; whole numbers, as counts are.
    const clock = (seconds) => {
      const iso = new Date(seconds * 1000).toISOString();
      return iso.slice(11, 16) === "00:00" ? iso.slice(5, 10) : iso.slice(11, 16);
    };
    const steps = Array.from({ length: 12 }, (_, power) => [1, 2, 5].map((one) => one * 10 ** power)).flat();
    const chart = new uPlot({
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      width: place.clientWidth, height: 190, legend: { show: false }, cursor: { y: false },
      axes: [{ ...axis, values: (_, times) => times.map(clock) }, { ...axis, size: 56, incrs: steps }],
      scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.05)] } },
      series: names.map((name, index) => index === 0 ? {} : {
        label: name, width: 2, dash: index > 1 ? [5, 4] : undefined, stroke: colour(`--series-${index}`), points: { show: rows.length < 3 },
      }),
      hooks: { setCursor: [(plot) => {
        const at = plot.cursor.idx;
        if (at == null) return;
        const cells = table.querySelectorAll("tbody tr")[at].querySelectorAll("[data-value]");
        said.textContent = [...cells].map((cell, index) => index ? `${names[index]} ${cell.textContent.trim()}` : cell.textContent.trim()).join(" · ");
      }] },
    }, columns, place);
    charts.set(place, chart);
    new ResizeObserver(() => chart.setSize({ width: place.clientWidth, height: 190 })).observe(place);
  };
  const drawAll = () => document.querySelectorAll("[data-chart]").forEach(draw);
  drawAll();
  document.addEventListener("htmx:after:swap", drawAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    document.querySelectorAll("[data-chart]").forEach((place) => {
      charts.get(place)?.destroy();
      charts.delete(place);
      draw(place);
    });
  });
})();

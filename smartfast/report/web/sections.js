// The sections of the page: each makes its elements of the runs that are shown, which it is given as data.
// `view` is what the reader has chosen: {smoothing, log, reals, at (place of the slider, null = newest), open}.

const NOTHING = "Nothing yet.";

function section(title, ...content) {
  return el("section", {}, el("h2", {}, title), ...content);
}

/** Content that opens on a click, and stays open when the page is drawn anew. */
function folded(view, key, summary, ...content) {
  const node = el("details", { open: view.open.has(key) }, el("summary", { "data-key": `fold ${key}` }, summary), ...content);
  node.addEventListener("toggle", () => (node.open ? view.open.add(key) : view.open.delete(key)));
  return node;
}

/** Content of each run, below the run's name where there are several. */
function perRun(runs, content) {
  return runs.flatMap((run) => (runs.length > 1 ? [el("h3", {}, swatch(run.color), " ", run.name)] : []).concat(content(run)));
}

function progressOf(run) {
  const { kimg, total, left } = run.progress;
  const bar = el("div", {});
  bar.style.width = `${total ? Math.min(100, (100 * kimg) / total) : 0}%`;
  const rest = left && total && kimg < total ? `, about ${left} left at the last tick` : "";
  const text = total ? `${kimgNumber(kimg)} of ${kimgNumber(total)} kimg${rest}` : `${kimgNumber(kimg)} kimg`;
  return [el("p", {}, run.subtitle), el("div", { class: "progress" }, bar), el("p", {}, text)];
}

function overview(runs) {
  const names = [...new Set(runs.flatMap((run) => run.facts.map(([name]) => name)))];
  const value = (run, name) => (run.facts.find(([known]) => known === name) ?? ["", ""])[1];
  const header = runs.length > 1 ? ["", ...runs.map((run) => run.name)] : null;
  return section("Overview", ...perRun(runs, progressOf),
    table(header, names.map((name) => [name, ...runs.map((run) => value(run, name))]), "text"));
}

function warnings(runs) {
  return section("Warnings", ...perRun(runs, (run) =>
    run.warnings.length ? [table(null, run.warnings, "text")] : [el("p", {}, "None.")]));
}

/** Charts of the panels that `of` gives for each run: curves of the same title share one, each run in its colour. */
function charts(runs, of, view) {
  const titles = [...new Set(runs.flatMap((run) => of(run).map((panel) => panel.title)))];
  const drawn = titles.map((title) => {
    const found = runs.flatMap((run) => of(run).filter((panel) => panel.title === title).map((panel) => [run, panel]));
    return chart(title, found[0][1].unit, found.flatMap(([run, panel]) => linesOf(run, panel, runs.length > 1)), view);
  });
  return drawn.length ? el("div", { class: "grid" }, ...drawn) : el("p", {}, NOTHING);
}

function linesOf(run, panel, areSeveral) {
  return panel.curves.map((curve, i) => ({
    ...curve,
    name: !areSeveral ? curve.name : panel.curves.length > 1 ? `${run.name}, ${curve.name}` : run.name,
    color: areSeveral ? run.color : COLORS[i % COLORS.length],
    dash: DASHES[(areSeveral ? i + run.round : Math.floor(i / COLORS.length)) % DASHES.length],
  }));
}

function metrics(runs, view) {
  const isAny = runs.some((run) => run.quality.panels.length);
  return section("Metrics", metricTable(runs), isAny ? charts(runs, (run) => run.quality.panels, { ...view, smoothing: 0 }) : null);
}

/** First, best and last values of a run; of several the last one of each, and its best. */
function metricTable(runs) {
  const names = [...new Set(runs.flatMap((run) => run.quality.rows.map(([name]) => name)))];
  if (!names.length) return el("p", {}, "None were computed.");
  if (runs.length === 1) return table(runs[0].quality.header, runs[0].quality.rows);
  const value = (run, name) => {
    const row = run.quality.rows.find(([known]) => known === name);
    return row ? `${row[3]}, best ${row[2]}` : "";
  };
  return table(["metric", ...runs.map((run) => run.name)], names.map((name) => [name, ...runs.map((run) => value(run, name))]));
}

function losses(runs, view) {
  return section("Losses",
    el("p", {}, `Mean per tick, over thousands of real images; from ${FEWEST_TO_SMOOTH} ticks on, the strong line is a running mean.`),
    charts(runs, (run) => run.panels, view),
    folded(view, "others", "All other statistics", charts(runs, (run) => run.others, view)));
}

const sheetKimg = (sheet) => sheet.kimg ?? -1; // null: before training
const kimgText = (kimg) => (kimg < 0 ? "Before training" : `At ${kimgNumber(kimg)} kimg`);

/** The places of the slider: every moment at which one of the runs has a sheet, in order. */
function sheetTimes(runs) {
  return [...new Set(runs.flatMap((run) => run.sheets.map(sheetKimg)))].sort((a, b) => a - b);
}

/** The sheets at a moment, of each run its last one until then, and real images where they are asked for. */
function sheetsAt(runs, kimg, view) {
  return runs.flatMap((run) => {
    const sheet = run.sheets.findLast((each) => sheetKimg(each) <= kimg);
    const prefix = runs.length > 1 ? `${run.name}: ` : "";
    return [
      ...(sheet ? [picture(sheet, prefix + kimgText(sheetKimg(sheet)))] : []),
      ...(view.reals && run.reals ? [picture(run.reals, `${prefix}Real images`)] : []),
    ];
  });
}

function samples(runs, view) {
  const times = sheetTimes(runs);
  if (!times.length) return section("Samples", el("p", {}, "No sample sheets were saved."));
  const pictures = el("div", { class: "pictures" });
  const output = el("output", {});
  const last = times.length - 1;
  const show = () => {
    const kimg = times[Math.min(view.at ?? last, last)];
    output.textContent = kimgText(kimg);
    pictures.replaceChildren(...sheetsAt(runs, kimg, view));
  };
  const slider = el("input", { type: "range", min: 0, max: last, value: Math.min(view.at ?? last, last), "aria-label": "time", "data-key": "time" });
  slider.addEventListener("input", () => {
    view.at = Number(slider.value) === last ? null : Number(slider.value);
    show();
  });
  show();
  return section("Samples", el("p", {}, "With labels, each column is one class."),
    el("div", { class: "slider" }, slider, output), toggle("real images beside them", view, "reals", show), pictures);
}

function toggle(text, view, key, changed) {
  const box = el("input", { type: "checkbox", "data-key": key });
  box.checked = view[key];
  box.addEventListener("change", () => { view[key] = box.checked; changed(); });
  return el("div", { class: "controls" }, el("label", {}, box, text));
}

function strips(runs) {
  return section("Interpolation", ...perRun(runs, (run) => {
    if (!run.strip) return [el("p", {}, run.strip_fault ?? "Drawn when the run ends.")];
    const caption = `From one latent to another, one pair per row, averaged generator at ${kimgNumber(run.strip.kimg)} kimg`;
    return [picture(run.strip, caption)];
  }));
}

function costs(runs) {
  const note = "Mean over the ticks, without the first one, which warms up. A phase that takes another's place is a run "
    + "of that other one and what it adds; its row is the difference between the two.";
  return section("Cost of each phase", el("p", {}, note), ...perRun(runs, (run) => [costTable(run.costs)]));
}

function costTable(rows) {
  if (!rows.length) return el("p", {}, "No tick has been logged yet.");
  const cells = rows.map(([phase, ms, count, sec, share], i) => {
    const bar = el("div", { class: "bar" });
    bar.style.width = `${100 * Math.max(share, 0)}%`;
    return [phase, ms, count, sec, `${(100 * share).toFixed(1)} %`, i < rows.length - 1 ? bar : ""];
  });
  const node = table(["phase", "ms per run", "runs per kimg", "seconds per kimg", "share", ""], cells);
  node.querySelectorAll("td:last-child").forEach((cell) => cell.classList.add("share"));
  node.querySelector("tr:last-child").classList.add("total");
  return node;
}

function settings(runs, view) {
  const texts = perRun(runs, (run) => run.config
    ? [folded(view, `config ${run.name}`, "config.yaml", el("pre", {}, run.config))] : [el("p", {}, NOTHING)]);
  return section("Configuration", ...(runs.length > 1 ? [differences(runs)] : []), ...texts);
}

function differences(runs) {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.settings)))];
  const value = (run, name) => (Object.hasOwn(run.settings, name) ? run.settings[name] : "not there");
  const rows = names.filter((name) => new Set(runs.map((run) => value(run, name))).size > 1)
    .map((name) => [name, ...runs.map((run) => value(run, name))]);
  if (!rows.length) return el("p", {}, "The settings are the same.");
  return table(["setting that differs", ...runs.map((run) => run.name)], rows, "text");
}

// The page of one or many runs: `smartfast watch`, which asks its server for news, and report.html, which has them inside.

const POLL_MS = 5000;
const page = embeddedData(); // {live, runs: data of each, or where it is live their names}
const view = { smoothing: 0.05, log: false, reals: page.runs.length === 1, at: null, open: new Set(), hidden: new Set() };
const texts = new Map();
let runs = page.live ? page.runs.map(() => null) : page.runs;

const status = el("p", { role: "status" }, page.live ? "Reading the run..." : "");
const list = el("div", { class: "runs" });
const main = el("main");

function named(run, i) {
  const round = Math.floor(i / COLORS.length); // of the colours: runs that share one have other dashes
  return { ...run, name: page.live ? page.runs[i] : run.name, color: COLORS[i % COLORS.length], round };
}

function draw() {
  const all = runs.flatMap((run, i) => (run ? [named(run, i)] : []));
  const shown = all.filter((run) => !view.hidden.has(run.name));
  const focused = document.activeElement?.dataset.key;
  list.replaceChildren(...(all.length > 1 ? all.map(choice) : []));
  main.replaceChildren(...(shown.length ? sectionsOf(shown) : []));
  if (focused) [...document.querySelectorAll("[data-key]")].find((node) => node.dataset.key === focused)
    ?.focus({ preventScroll: true });
}

function sectionsOf(shown) {
  return [overview(shown), warnings(shown), controls(), metrics(shown, view), samples(shown, view),
    strips(shown), losses(shown, view), costs(shown), settings(shown, view)];
}

function choice(run) {
  const box = el("input", { type: "checkbox", "data-key": `run ${run.name}` });
  box.checked = !view.hidden.has(run.name);
  box.addEventListener("change", () => {
    if (box.checked) view.hidden.delete(run.name);
    else view.hidden.add(run.name);
    draw();
  });
  return el("label", {}, box, swatch(run.color), run.name);
}

function controls() {
  const slider = el("input", { type: "range", min: 0, max: 25, value: 100 * view.smoothing, "data-key": "smoothing" });
  slider.addEventListener("change", () => { view.smoothing = Number(slider.value) / 100; draw(); });
  const smoothing = el("div", { class: "controls" }, el("label", {}, "smoothing", slider));
  smoothing.append(...toggle("logarithmic scale", view, "log", draw).children);
  return smoothing;
}

async function read(i) {
  const answer = await fetch(`runs/${i}.json`, { cache: "no-cache" });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${page.runs[i]}: ${text}`);
  if (texts.get(i) === text) return false;
  texts.set(i, text);
  runs[i] = JSON.parse(text);
  return true;
}

let isPointerDown = false; // who holds a slider must not lose it to a new page

async function poll() {
  if (document.visibilityState === "visible" && !isPointerDown) {
    let fault = null;
    try {
      const answers = await Promise.allSettled(page.runs.map((_, i) => read(i)));
      if (answers.some((answer) => answer.value)) draw();
      fault = answers.find((answer) => answer.status === "rejected")?.reason;
    } catch (error) {
      fault = error;
    }
    status.textContent = fault
      ? `No news: ${fault.message}. The page shows what it had.`
      : `Live; read at ${new Date().toLocaleTimeString()}.`;
    status.className = fault ? "bad" : "";
  }
  setTimeout(poll, POLL_MS);
}

const title = page.runs.length > 1 ? `${page.runs.length} runs` : `Run ${page.live ? page.runs[0] : page.runs[0].name}`;
document.body.append(el("h1", {}, title), status, list, main);
if (page.live) {
  document.addEventListener("pointerdown", () => { isPointerDown = true; });
  for (const event of ["pointerup", "pointercancel"]) document.addEventListener(event, () => { isPointerDown = false; });
  poll();
} else {
  draw();
}

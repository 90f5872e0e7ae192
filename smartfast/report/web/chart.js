// One chart: lines over thousands of images, a running mean over each where asked, and the values under the pointer.

const COLORS = ["#2563a8", "#c2571a", "#3d8b37", "#8a4fbe", "#b8860b", "#1b8a8f", "#a83254", "#5f6b7a"];
const DASHES = ["", "6 3", "2 3", "8 3 2 3", "12 4", "1 5", "12 3 2 3 2 3", "4 6"];
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [380, 210, 52, 8, 8, 24];
const FEWEST_TO_SMOOTH = 20;

/** Exponential running mean without start-up bias, with a half-life of `share` of the values; null stays a gap. */
function smoothed(values, share) {
  const decay = 0.5 ** (1 / Math.max(1, share * values.length));
  let [mean, weight] = [0, 0];
  return values.map((value) => {
    if (value === null) return null;
    mean = decay * mean + (1 - decay) * value;
    weight = decay * weight + (1 - decay);
    return mean / weight;
  });
}

/** Round numbers from low to high, about `count` of them; on a logarithmic scale powers of ten where there are two. */
function ticks(low, high, count, isLog) {
  if (isLog) {
    const powers = [];
    for (let p = Math.ceil(Math.log10(low) - 1e-9); p <= Math.floor(Math.log10(high) + 1e-9); p++) powers.push(10 ** p);
    if (powers.length >= 2) return powers.filter((_, i) => i % Math.ceil(powers.length / count) === 0);
  }
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found;
}

function short(value) {
  return Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3)
    ? value.toExponential(2).replace(/\.?0*e\+?/, "e")
    : String(Number(value.toPrecision(4)));
}

/** Thousands of images in full, as the files of a run have them. */
function kimgNumber(kimg) {
  return String(Number(kimg.toFixed(3)));
}

function range(values, isLog) {
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value === null || (isLog && value <= 0)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) return null;
  if (isLog) return low === high ? [low / 2, high * 2] : [low, high];
  const margin = low === high ? Math.abs(low) / 10 || 1 : (high - low) * 0.04;
  return [low - margin, high + margin];
}

/** A chart of `lines` [{name, color, dash, kimg, values}]; view: {smoothing: share of the values, log}. */
function chart(title, unit, lines, view) {
  const readout = el("div", { class: "readout" });
  const legend = el("div", { class: "legend" });
  if (lines.length > 1) lines.forEach((line) => legend.append(el("span", {}, swatchLine(line), line.name)));
  const heading = el("div", { class: "title" }, title, " ", el("span", { class: "unit" }, unit));
  const node = el("div", { class: "chart" }, heading);
  const isLog = view.log && lines.some((line) => line.values.some((value) => value > 0));
  const y = range(lines.flatMap((line) => line.values), isLog);
  const x = range(lines.flatMap((line) => line.kimg), false);
  if (!y || !x) return filled(node, {}, [el("p", {}, "No finite value.")]);
  const scaled = (value) => (isLog ? Math.log(value) : value);
  const toX = (kimg) => LEFT + ((kimg - x[0]) / (x[1] - x[0])) * (WIDTH - LEFT - RIGHT);
  const [low, high] = y.map(scaled);
  const toY = (value) => TOP + ((high - scaled(value)) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
  axes(drawing, x, y, toX, toY, isLog);
  for (const line of lines) {
    const isSmooth = view.smoothing > 0 && line.values.length >= FEWEST_TO_SMOOTH;
    const points = (values) => path(line.kimg, values, toX, toY, isLog);
    if (isSmooth) drawing.append(stroke(points(line.values), line, { opacity: 0.25, "stroke-width": 1 }));
    const even = line.means ?? line; // of a long curve the extremes of each stretch are drawn, and its means smoothed
    const main = isSmooth ? path(even.kimg, smoothed(even.values, view.smoothing), toX, toY, isLog) : points(line.values);
    drawing.append(stroke(main, line, { "stroke-width": 1.7 }));
    if (line.values.length < FEWEST_TO_SMOOTH) dots(drawing, line, toX, toY, isLog);
  }
  follow(drawing, lines, toX, readout);
  node.append(drawing, readout, legend);
  return node;
}

function swatchLine(line) {
  return svg("svg", { width: 22, height: 8, style: "width:22px;flex:none" },
    svg("line", { x1: 0, x2: 22, y1: 4, y2: 4, stroke: line.color, "stroke-width": 2, "stroke-dasharray": line.dash }));
}

function axes(drawing, x, y, toX, toY, isLog) {
  for (const value of ticks(y[0], y[1], 4, isLog)) {
    drawing.append(
      svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: toY(value), y2: toY(value), stroke: "#e3e7ec" }),
      svg("text", { x: LEFT - 5, y: toY(value) + 4, "text-anchor": "end" }, short(value)));
  }
  for (const value of ticks(x[0], x[1], 5, false)) {
    drawing.append(svg("text", { x: toX(value), y: HEIGHT - 8, "text-anchor": "middle" }, short(value)));
  }
  drawing.append(
    svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM, stroke: "#9aa3ad" }));
}

/** The d of a path; a value that cannot be drawn interrupts it. */
function path(kimg, values, toX, toY, isLog) {
  let [text, isDown] = ["", false];
  values.forEach((value, i) => {
    const isThere = value !== null && (!isLog || value > 0);
    if (isThere) text += `${isDown ? "L" : "M"}${toX(kimg[i]).toFixed(1)} ${toY(value).toFixed(1)}`;
    isDown = isThere;
  });
  return text;
}

function stroke(d, line, attributes) {
  const look = { d, fill: "none", stroke: line.color, "stroke-dasharray": line.dash, "stroke-linejoin": "round" };
  return svg("path", { ...look, ...attributes });
}

function dots(drawing, line, toX, toY, isLog) {
  line.values.forEach((value, i) => {
    if (value === null || (isLog && value <= 0)) return;
    drawing.append(svg("circle", { cx: toX(line.kimg[i]), cy: toY(value), r: 2.3, fill: line.color }));
  });
}

/** Says the values of each line nearest to the pointer, or to a finger. */
function follow(drawing, lines, toX, readout) {
  const mark = svg("line", { y1: TOP, y2: HEIGHT - BOTTOM, stroke: "#9aa3ad", "stroke-dasharray": "2 2", opacity: 0 });
  drawing.append(mark);
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * WIDTH;
    const nearest = (line) => line.kimg.reduce((best, kimg, i) =>
      Math.abs(toX(kimg) - at) < Math.abs(toX(line.kimg[best]) - at) ? i : best, 0);
    const found = lines.map((line) => [line, nearest(line)]);
    const kimg = found[0][0].kimg[found[0][1]];
    const said = found.map(([line, i]) => {
      const value = line.values[i] === null ? "not finite" : short(line.values[i]);
      return lines.length > 1 ? `${line.name} ${value}` : value;
    });
    readout.textContent = `at ${kimgNumber(kimg)} kimg: ${said.join(", ")}`;
    mark.setAttribute("x1", toX(kimg));
    mark.setAttribute("x2", toX(kimg));
    mark.setAttribute("opacity", 1);
  });
  drawing.addEventListener("pointerleave", () => {
    readout.textContent = "";
    mark.setAttribute("opacity", 0);
  });
}

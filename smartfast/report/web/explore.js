// The page of `smartfast explore`: each section has fields, and a picture that follows them.

const about = embeddedData();
const common = {}; // fields that every picture takes: psi, cutoff, threshold
const pictures = [];

function field(text, input) {
  return el("label", {}, text, input);
}

function textField(value, attributes = {}) {
  return el("input", { type: "text", value, autocomplete: "off", ...attributes });
}

function choices(values) {
  return el("select", {}, ...values.map(([value, text]) => el("option", { value }, text)));
}

function classChoice() {
  const name = (i) => (about.classNames[i] ? `${i}: ${about.classNames[i]}` : String(i));
  return choices([["", "seed modulo classes"], ...Array.from({ length: about.classes }, (_, i) => [i, name(i)])]);
}

function sliderField(text, low, high, step, value) {
  const output = el("output", {}, String(value));
  const input = el("input", { type: "range", min: low, max: high, step, value });
  input.addEventListener("input", () => { output.textContent = input.value; });
  return [el("label", {}, el("span", {}, text, " ", output), input), input];
}

/** A section of fields and the picture of what they say; a new picture is asked for once the last one is there. */
function drawing(title, path, inputs, says, extra = []) {
  const image = el("img", { alt: title });
  const message = el("p", { role: "status" });
  const command = el("pre");
  let [isWaiting, isStale] = [false, false];
  async function update() {
    if (isWaiting) { isStale = true; return; }
    [isWaiting, isStale] = [true, false];
    const values = { ...common, ...inputs };
    const query = new URLSearchParams(Object.entries(values).map(([name, input]) => [name, input.value.trim()]));
    if (says) command.textContent = says(Object.fromEntries(query));
    message.textContent = "Drawing...";
    try {
      const answer = await fetch(`${path}?${query}`);
      if (!answer.ok) throw new Error(await answer.text());
      image.src = await asAddress(await answer.blob());
      message.textContent = "";
      message.className = "";
    } catch (error) {
      message.textContent = error.message;
      message.className = "bad";
    }
    isWaiting = false;
    if (isStale) update();
  }
  for (const input of Object.values(inputs)) input.addEventListener("input", update);
  pictures.push(update);
  return el("section", {}, el("h2", {}, title), ...extra, message, el("figure", {}, image), ...(says ? [command] : []));
}

function asAddress(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => done(reader.result));
    reader.addEventListener("error", () => failed(reader.error));
    reader.readAsDataURL(blob);
  });
}

/** The same as a command, with the options that are not the usual ones. */
function commandOf(name, options, values) {
  const given = Object.entries(options).filter(([, key]) => values[key] !== undefined && values[key] !== "")
    .map(([option, key]) => ` --${option} ${values[key].replace(/\s+/g, "")}`);
  return `smartfast ${name} ${about.command}${given.join("")}`;
}

const LOOK = { truncation_psi: "psi", truncation_cutoff: "cutoff", truncation_threshold: "threshold" };

function looks() {
  const fields = [];
  if (about.truncates) {
    const [node, input] = sliderField("truncation psi", -1, 1.5, 0.05, 1);
    fields.push(node, field("leading layers that it acts on", (common.cutoff = textField("", { placeholder: "all" }))));
    common.psi = input;
  }
  if (about.thresholds) fields.push(field("truncation threshold", (common.threshold = textField("", { placeholder: "none" }))));
  for (const input of Object.values(common)) input.addEventListener("input", () => pictures.forEach((update) => update()));
  return fields.length ? [el("fieldset", {}, el("legend", {}, "All pictures"), el("div", { class: "fields" }, ...fields))] : [];
}

function labelFields() {
  if (about.classes) return { classes: classChoice() };
  return about.labelSize ? { label: textField("", { placeholder: `${about.labelSize} numbers, or of the data` }) } : {};
}

function labelled(inputs, fields) {
  const labels = labelFields();
  Object.assign(inputs, labels);
  for (const [name, input] of Object.entries(labels)) fields.push(field(name === "classes" ? "class" : "label", input));
  return el("div", { class: "fields" }, ...fields);
}

function images() {
  const seeds = textField("0-15");
  const dice = el("button", { type: "button" }, "other seeds");
  dice.addEventListener("click", () => {
    const first = Math.floor(Math.random() * 1e6);
    seeds.value = `${first}-${first + 15}`;
    seeds.dispatchEvent(new Event("input"));
  });
  const inputs = { seeds };
  const own = [field("seeds, such as 0-15,20", seeds)];
  if (about.noises) {
    inputs.noise = choices([["const", "stored"], ["random", "drawn from the seed"], ["none", "none"]]);
    own.push(field("noise of the layers", inputs.noise));
  }
  const fields = labelled(inputs, own);
  const options = { seeds: "seeds", classes: "classes", label: "label", noise: "noise", ...LOOK };
  return drawing("Images", "images.png", inputs, (values) => commandOf("generate", options, values),
    [fields, el("p", {}, dice)]);
}

function between() {
  const [node, at] = sliderField("from the first seed to the second", 0, 1, 0.01, 0);
  const inputs = { seeds: textField("0,1"), at };
  const fields = [field("two seeds", inputs.seeds)];
  if (about.spaces.length > 1) {
    inputs.space = choices(about.spaces.map((space) => [space, space]));
    fields.push(field("space", inputs.space));
  }
  return drawing("Interpolation", "between.png", inputs, null, [labelled(inputs, fields), el("div", { class: "fields" }, node)]);
}

function mixing() {
  const layers = textField(about.coarse > 1 ? `0-${about.coarse - 1}` : "0");
  const inputs = { rows: textField("0-3"), columns: textField("4-9"), layers };
  const fields = [field("seeds of the rows", inputs.rows), field("seeds of the columns", inputs.columns),
    field(`layers of the columns, 0-${about.styleLayers - 1}`, layers)];
  const options = { rows: "rows", columns: "columns", layers: "layers", classes: "classes", ...LOOK };
  delete options.truncation_threshold;
  return drawing("Style mixing", "mixed.png", inputs, (values) => (values.label ? "" : commandOf("style-mix", options, values)),
    [labelled(inputs, fields), el("p", {}, "The first row and column are the images of the seeds themselves.")]);
}

const sections = [...looks(), images(), between(), ...(about.styleLayers ? [mixing()] : [])];
document.body.append(el("h1", {}, `Explore ${about.name}`), el("main", {}, ...sections));
pictures.forEach((update) => update());

"use strict";
// Elements of the page. Whatever comes from files passes through here and becomes text or a value, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (null ones are left out; `on` holds listeners) and children, of which strings are text. */
function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else if (value !== null && value !== false) {
      node.setAttribute(name, value === true ? "" : value);
    }
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** A table: `header` (null for none) and `rows` of strings or elements. */
function table(header, rows, kind = "") {
  const body = rows.map((cells) => el("tr", {}, ...cells.map((cell) => el("td", {}, cell))));
  const head = header ? [el("tr", {}, ...header.map((cell) => el("th", {}, cell)))] : [];
  return el("div", { class: "wide" }, el("table", { class: kind }, ...head, ...body));
}

function swatch(color) {
  const node = el("span", { class: "swatch" });
  node.style.background = color;
  return node;
}

/** A picture with a caption; `fault` is said in its place. Only addresses of this server and data inside the page. */
function picture(found, caption) {
  if (!found.src) return el("figure", {}, el("figcaption", {}, `${caption}: ${found.fault}`));
  const image = el("img", { alt: caption, src: found.src });
  image.addEventListener("error", () => image.replaceWith(el("p", { class: "bad" }, "This picture cannot be read.")));
  return el("figure", {}, el("figcaption", {}, caption), image);
}

function embeddedData() {
  return JSON.parse(document.getElementById("data").textContent);
}

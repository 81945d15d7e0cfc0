"use strict";
// What is shown: the form gives a request and a method, `forget` computes, the rest draws.

const ABOUT = {
  nullspace: "projects what must go away (the paper’s, reconstructed)",
  residual: "the same, but for what kept cells share (ours)",
  ridge: "weighs forgetting against keeping (after CCUP)",
  oblique: "reads class and domain, lowers the class (ours)",
  neuron: "the same above a threshold: a hidden layer (ours)",
  gated: "acts on the forgotten domain only: a module (ours)",
};
const RATES = [
  ["forgetting_rate", "Forgetting rate", "of the right answers on forgotten cells, the share that is gone"],
  ["retain_drop", "Retain drop", "points lost on kept cells, their mean"],
  ["sibling_class_drop", "Sibling classes", "points lost: same class, kept domains"],
  ["sibling_domain_drop", "Sibling domains", "points lost: same domain, kept classes"],
  ["worst_cell_drop", "Worst cell", "points lost in the kept cell that loses most"],
];
const SHOWN = 12;

// --- the data

/** Rows of `width` numbers, from base64 of an array of the type `Kind`. */
function unpack(text, Kind, width = DATA.width) {
  const numbers = new Kind(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  return Array.from({ length: numbers.length / width }, (_, i) =>
    Float64Array.from(numbers.subarray(i * width, (i + 1) * width)));
}

/** A list of C K rows as [class][domain]. */
const byClass = (rows) => DATA.classes.map((_, c) => rows.slice(c * DATA.domains.length, (c + 1) * DATA.domains.length));

const pictures = unpack(DATA.pictures.embeddings, Int16Array);
const queries = unpack(DATA.queries, Float32Array); // "a picture of a dog": they name the pictures
const cells = makeCells({
  texts: byClass(unpack(DATA.texts, Float32Array)),
  prototypes: byClass(unpack(DATA.prototypes, Float32Array)),
  domains: unpack(DATA.names, Float64Array),
  duals: unpack(DATA.duals, Float64Array),
  origin: unpack(DATA.origin, Float64Array)[0],
});
const { C, K } = cells;
const counts = countRight(DATA.pictures.classes, DATA.pictures, C, K); // every label is right about itself

// --- what is computed

/** What is wrong with a request, in a sentence; nothing if it can be forgotten. */
function problemOf(classes, domains) {
  if (!classes.length && !domains.length) return "Nothing is chosen: choose a class, a domain or both.";
  const all = (found, n) => !found.length || found.length === n;
  if (all(classes, C) && all(domains, K)) {
    return "Everything would be forgotten: leave out at least one class or one domain, so that something is kept.";
  }
  return "";
}

/** The cells to forget, [class][domain]: no class means all of them, no domain likewise. */
const maskOf = (classes, domains) => DATA.classes.map((_, c) => DATA.domains.map((_, k) =>
  (!classes.length || classes.includes(c)) && (!domains.length || domains.includes(k))));

/** The pictures as they are after an edit (none: before), how they are named, how many in each cell are named right. */
function measure(edit) {
  const z = edit ? transform(edit, pictures) : pictures;
  const answers = classify(z, queries);
  return { z, answers, right: countRight(answers, DATA.pictures, C, K) };
}

const shares = (right) => right.map((row, c) => row.map((n, k) => n / counts[c][k])); // NaN where there is no picture
const before = measure(null);

/** What `method` does when it forgets the cells of `mask`. */
function forget(mask, method) {
  const after = measure(METHODS[method](cells, mask, DATA.settings[method]));
  return { ...after, rates: ratesOf(shares(before.right), shares(after.right), mask) };
}

// --- the form

const at = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function addChoices(id, type, names, about = {}) {
  at(id).querySelector("legend").after(...names.map((name) => element("label", {},
    element("input", { type, name: id, value: name }),
    element("span", {}, about[name] ? element("b", {}, name) : name, about[name] ? `: ${about[name]}` : ""))));
}

const inputs = (id) => [...at(id).querySelectorAll("input")];
const checked = (id) => inputs(id).flatMap((input, i) => (input.checked ? [i] : []));

/** Set the form from the address, #classes=dog&domains=line&method=gated, or to a request that shows something. */
function fromAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1) || "classes=dog&domains=line&method=nullspace");
  const list = (key) => (wanted.get(key) || "").split(",").filter(Boolean);
  const given = { classes: list("classes"), domains: list("domains"), methods: list("method") };
  for (const [id, names] of Object.entries(given)) {
    for (const input of inputs(id)) input.checked = names.includes(input.value);
  }
  if (!checked("methods").length) inputs("methods")[0].checked = true;
  at("query").selectedIndex = Math.max(0, DATA.classes.indexOf(wanted.get("find") || given.classes[0]));
  const known = [...DATA.classes, ...DATA.domains, ...Object.keys(METHODS)];
  return Object.values(given).flat().filter((name) => !known.includes(name));
}

function toAddress(classes, domains, method) {
  const pick = (names, found) => found.map((i) => names[i]).join(",");
  const wanted = { classes: pick(DATA.classes, classes), domains: pick(DATA.domains, domains), method, find: at("query").value };
  history.replaceState(null, "", `#${Object.entries(wanted).map(([key, value]) => `${key}=${value}`).join("&")}`);
}

// --- what is drawn

const number = (x) => (Number.isNaN(x) ? "–" : x.toFixed(1).replace(/^-(?=0\.0$)/, "").replace("-", "−"));
const unseen = (text) => element("span", { className: "unseen" }, text);
const cellName = (c, k) => `${DATA.classes[c]} in ${DATA.domains[k]}`;

function makeTable() {
  const heads = DATA.domains.map((name) => element("th", { scope: "col" }, name));
  at("matrix").tHead.append(element("tr", {}, element("td", {}, unseen("class")), ...heads));
  at("matrix").tBodies[0].append(...DATA.classes.map((name) =>
    element("tr", {}, element("th", { scope: "row" }, name), ...DATA.domains.map(() => element("td")))));
}

function drawMatrix(right, mask) {
  [...at("matrix").tBodies[0].rows].forEach((row, c) => DATA.domains.forEach((_, k) => {
    const cell = row.cells[k + 1], n = counts[c][k], was = before.right[c][k], is = right[c][k];
    cell.className = (mask[c][k] ? "forgotten " : "") + (is < was ? "lost" : is > was ? "won" : "");
    cell.style.setProperty("--share", n ? is / n : 0);
    const forgotten = mask[c][k] ? ["✕ ", unseen("to forget: ")] : [];
    if (!n) return cell.replaceChildren(...forgotten, element("span", { ariaHidden: "true" }, "–"), unseen("no pictures"));
    const change = is === was ? [] : [element("small", {}, `${is < was ? "▼" : "▲"} ${was}`, unseen(" before"))];
    cell.replaceChildren(...forgotten, `${is}/${n}`, ...change);
  }));
}

function drawTiles(id, title, z, mask) {
  const c = at("query").selectedIndex, found = retrieve(z, queries[c]).slice(0, SHOWN), own = DATA.pictures;
  const hits = found.filter((i) => own.classes[i] === c).length;
  at(`${id}-title`).textContent = `${title}: ${hits} of ${SHOWN} show a ${DATA.classes[c]}`;
  at(id).replaceChildren(...found.map((i) => {
    const tile = element("span", { className: "tile", ariaHidden: "true" });
    for (const [name, value] of [["--x", i % own.columns], ["--y", Math.floor(i / own.columns)], ["--columns", own.columns]]) {
      tile.style.setProperty(name, value);
    }
    const gone = mask[own.classes[i]][own.domains[i]];
    return element("li", { title: own.credits[i], className: gone ? "forgotten" : "" }, tile,
      ...(gone ? ["✕ ", unseen("to forget: ")] : []), `${DATA.classes[own.classes[i]]}, ${DATA.domains[own.domains[i]]}`);
  }));
}

const listOf = (rates) => RATES.map(([key, name, about]) => {
  const share = key === "forgetting_rate", value = share ? 100 * rates[key] : rates[key];
  const shown = number(value) + (share && !Number.isNaN(value) ? " %" : "");
  return element("div", {}, element("dt", {}, name), element("dd", {}, shown, element("small", {}, about)));
});

/** The result in two sentences; a screen reader says them after each change. */
function sentence({ right, rates }, mask, method) {
  const places = mask.flatMap((row, c) => row.flatMap((x, k) => (x ? [[c, k]] : [])));
  const sum = (matrix) => places.reduce((total, [c, k]) => total + matrix[c][k], 0);
  const first = sum(counts)
    ? `Of the ${sum(counts)} pictures to forget, ${sum(before.right)} were named right; after ${method}, ${sum(right)} are.`
    : "No test picture shows what is to be forgotten, so that only what is kept can be measured.";
  const kept = mask.flatMap((row, c) => row.flatMap((x, k) => (!x && counts[c][k] ? [[c, k]] : [])));
  const loss = ([c, k]) => (before.right[c][k] - right[c][k]) / counts[c][k];
  const worst = kept.reduce((most, place) => (loss(place) > loss(most) ? place : most), kept[0]);
  const lost = rates.retain_drop < 0 ? `gain ${number(-rates.retain_drop)}` : `lose ${number(rates.retain_drop)}`;
  if (!kept.length) return `${first} No test picture shows what is kept.`;
  return `${first} What is kept: the cells ${lost} points on average` +
    (loss(worst) > 0 ? `, and ${cellName(...worst)} loses most, ${number(100 * loss(worst))} points.` : ", and none loses anything.");
}

function update() {
  const start = performance.now();
  const [classes, domains] = [checked("classes"), checked("domains")];
  const method = Object.keys(METHODS)[checked("methods")[0]], problem = problemOf(classes, domains);
  const mask = problem ? DATA.classes.map(() => DATA.domains.map(() => false)) : maskOf(classes, domains);
  const after = problem ? before : forget(mask, method);
  at("told").textContent = problem ? `${problem} What you see is the unedited model.` : sentence(after, mask, method);
  at("rates").replaceChildren(...(problem ? [] : listOf(after.rates)));
  drawMatrix(after.right, mask);
  drawTiles("before", "Before", before.z, mask);
  drawTiles("after", "After", after.z, mask);
  toAddress(classes, domains, method);
  at("demo").dataset.milliseconds = performance.now() - start;
  at("time").textContent = `Your browser alone computed and drew this in ${Math.ceil(performance.now() - start)} ms.`;
}

addChoices("classes", "checkbox", DATA.classes);
addChoices("domains", "checkbox", DATA.domains);
addChoices("methods", "radio", Object.keys(METHODS), ABOUT);
at("query").append(...DATA.classes.map((name) => element("option", {}, name)));
makeTable();
const unknown = fromAddress();
at("demo").hidden = false;
update();
if (unknown.length) at("told").prepend(`The link names ${unknown.join(", ")}, which is not here. `);

at("demo").addEventListener("submit", (event) => event.preventDefault());
at("demo").addEventListener("change", ({ target }) => {
  if (target.name === "classes" && target.checked) at("query").value = target.value; // search for what was just chosen
  update();
});
at("clear").addEventListener("click", () => {
  for (const input of [...inputs("classes"), ...inputs("domains")]) input.checked = false;
  update();
});
window.addEventListener("hashchange", () => { fromAddress(); update(); });

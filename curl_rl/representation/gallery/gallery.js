// The page: what the mouse, fingers, keys and buttons do.
const part = (id) => document.getElementById(id);
const canvas = part("chart"), tip = part("tip");
const chart = new Chart(canvas, arrays.x, arrays.y);
const chosen = new Map(); // the set: frames by number
const state = { column: columns.find((column) => column.varies), only: null, hover: -1, cursor: -1, look: null, line: [], lasso: false };
let asked = 0, waiting = false;

function plural(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}

function say(text) {
  part("live").textContent = text;
}

function describe(frame) {
  return [frame.name, ...facts(frame).map(([name, text]) => `${name} ${text}`)].join(", ");
}

// Drawing

function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    chart.draw(packed(long(colour("--map"))), packed(long(colour("--ink"))), (context) => marks(context, colour));
  });
}

function long(hex) {
  return hex.length === 4 ? `#${[...hex.slice(1)].map((digit) => digit + digit).join("")}` : hex;
}

function marks(context, colour) {
  context.lineJoin = "round";
  const look = state.look, point = look ? pointOf.get(look.frame.number) : undefined;
  if (look) {
    trace(context, look.strip, colour("--soft"));
    for (const near of nearestOf(look).map((frame) => pointOf.get(frame.number))) {
      if (near === undefined) continue;
      context.strokeStyle = colour("--link");
      if (point !== undefined) stroke(context, [chart.at(point), chart.at(near)], 1);
      circle(context, near, chart.radius + 3, 1.5);
    }
  }
  for (const [i, width] of [[state.hover, 2], [state.cursor, 2.5], [point ?? -1, 3.5]]) {
    if (i < 0) continue;
    context.strokeStyle = colour("--map");
    circle(context, i, chart.radius + 4.5, width + 3);
    context.strokeStyle = i === point ? colour("--link") : colour("--ink");
    circle(context, i, chart.radius + 4.5, width);
  }
  if (state.line.length) lassoed(context, colour("--link"));
}

function trace(context, frames, colour) {
  const points = frames.map((frame) => pointOf.get(frame.number)).filter((point) => point !== undefined);
  context.strokeStyle = colour;
  context.globalAlpha = 0.7;
  stroke(context, points.map((point) => chart.at(point)), 1.5);
  context.globalAlpha = 1;
}

function stroke(context, line, width) {
  context.lineWidth = width;
  context.beginPath();
  for (const [x, y] of line) context.lineTo(x, y);
  context.stroke();
}

function circle(context, point, radius, width) {
  context.lineWidth = width;
  context.beginPath();
  context.arc(...chart.at(point), radius, 0, 2 * Math.PI);
  context.stroke();
}

function lassoed(context, colour) {
  const line = state.line.map((place) => chart.onScreen(place));
  context.strokeStyle = context.fillStyle = colour;
  context.setLineDash([6, 4]);
  stroke(context, [...line, line[0]], 2);
  context.setLineDash([]);
  context.globalAlpha = 0.12;
  context.fill();
  context.globalAlpha = 1;
  for (const [x, y] of line.length < 12 ? line : []) context.fillRect(x - 3, y - 3, 6, 6);
}

function recolour() {
  const { column, only } = state;
  chart.colours = coloursOf(column);
  chart.shown.fill(1);
  if (only !== null) column.values.forEach((code, i) => { chart.shown[i] = code === only; });
  showLegend(part("legend"), column, only, highlight);
  part("highlighted").hidden = only === null;
  chart.stale();
  redraw();
}

function highlight(code) {
  state.only = code;
  recolour();
  const name = code === null ? "" : code < 0 ? "unknown" : state.column.names[code];
  say(code === null ? "everything is highlighted" : `${plural(chart.shown.filter((each) => each).length, "frame")} of ${name} highlighted`);
  const pressed = part("legend").querySelector('[aria-pressed="true"]');
  if (pressed) pressed.focus();
}

// A frame: hovered, under the keys, selected

function showTip(point) {
  tip.hidden = point < 0;
  if (point < 0) return;
  const frame = frameOf(point), lines = facts(frame).slice(0, 6).map(([name, text]) => element("span", {}, `${name} `, element("bdi", {}, text)));
  tip.replaceChildren(pictureOf(frame), element("div", {}, element("b", {}, element("bdi", {}, frame.name)), ...lines));
  const [x, y] = chart.at(point), gap = 18, { offsetWidth: width, offsetHeight: height } = tip;
  const left = x + gap + width < chart.width ? x + gap : Math.max(4, x - gap - width);
  const top = Math.max(4, Math.min(chart.height - height - 4, y - height / 2));
  tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
}

function hover(point) {
  if (point === state.hover) return;
  state.hover = point;
  canvas.classList.toggle("point", point >= 0);
  showTip(point);
  redraw();
}

function goTo(point) {
  if (point < 0 || point === undefined) return;
  state.cursor = point;
  chart.reveal(point);
  showTip(point);
  say(describe(frameOf(point)));
  redraw();
}

async function select(number) {
  const mine = ++asked;
  try {
    const look = await lookAt(number);
    if (mine !== asked) return; // another was asked for since
    if (!state.look) part("help").open = false;
    state.look = look;
    state.cursor = pointOf.get(number) ?? -1;
    if (state.cursor >= 0) chart.reveal(state.cursor);
    const list = document.activeElement.closest(".tiles, .strip")?.id;
    showLook();
    if (list) (part(list)?.querySelector("[aria-current], .tile") ?? canvas).focus();
    say(`selected ${describe(look.frame)}`);
  } catch (error) {
    say(`this frame cannot be shown: ${error.message}`);
    part("frame").replaceChildren(element("p", { className: "empty" }, `This frame cannot be shown (${error.message}): is the server still running?`));
  }
  redraw();
}

function showLook() {
  const box = part("frame"), isChosen = (frame) => chosen.has(frame.number);
  const focused = box.contains(document.activeElement) ? document.activeElement.id : "";
  showFrame(box, state.look, { pick: select, toggle, isChosen, changed: () => { showLook(); redraw(); } });
  if (focused) part(focused)?.focus(); // the same control, made anew
}

function drop() {
  asked++;
  if (state.line.length) state.line = [];
  else if (state.look) [state.look, state.cursor] = [null, -1];
  else state.cursor = -1;
  hover(-1);
  showTip(-1);
  showLook();
  redraw();
}

// The set

function toggle(frame) {
  change([frame], !chosen.has(frame.number));
}

function change(frames, into) {
  const before = chosen.size;
  for (const frame of frames) {
    if (into) chosen.set(frame.number, frame);
    else chosen.delete(frame.number);
    const point = pointOf.get(frame.number);
    if (point !== undefined) chart.chosen[point] = into;
  }
  const count = chosen.size;
  part("count").textContent = count.toLocaleString("en");
  part("counted").textContent = `frame${count === 1 ? "" : "s"} in the set`;
  part("clear").disabled = part("save").disabled = !count;
  say(`${plural(Math.abs(count - before), "frame")} ${into ? "added" : "taken out"}, ${count.toLocaleString("en")} in the set`);
  if (state.look) showLook();
  chart.stale();
  redraw();
}

function closeLasso(into) {
  const line = state.line;
  state.line = [];
  if (line.length > 2) change(chart.inside(line).map(frameOf), into);
  redraw();
}

// Names and an empty class, to be filled; with numbers where a name alone does not tell.
function csvOfSet() {
  const frames = [...chosen.values()].sort((a, b) => a.number - b.number);
  const numbered = frames.some((frame) => frame.repeated);
  const cell = (text) => (/[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const rows = frames.map((frame) => `${cell(frame.name)},${numbered ? `,${frame.number}` : ""}\n`);
  return `name,class${numbered ? ",number" : ""}\n${rows.join("")}`;
}

function save() {
  const url = URL.createObjectURL(new Blob([csvOfSet()], { type: "text/csv" }));
  element("a", { href: url, download: "labels.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
  say(`${plural(chosen.size, "name")} saved as labels.csv: fill in the class column`);
}

// Mouse and fingers

const held = new Map(); // pointers that are down, by id: where
let pressed = null;

function placeOf(event) {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  canvas.setPointerCapture(event.pointerId);
  held.set(event.pointerId, placeOf(event));
  pressed = { at: placeOf(event), moved: held.size > 1, lasso: (state.lasso || event.shiftKey) && held.size === 1 };
  if (held.size > 1) state.line = [];
});

canvas.addEventListener("pointermove", (event) => {
  const [x, y] = placeOf(event);
  if (!held.has(event.pointerId)) return hover(event.pointerType === "touch" ? -1 : chart.nearest(x, y, 14));
  const [oldX, oldY] = held.get(event.pointerId), other = [...held].find(([id]) => id !== event.pointerId);
  if (Math.hypot(x - pressed.at[0], y - pressed.at[1]) > 5) pressed.moved = true;
  if (!pressed.moved) return;
  held.set(event.pointerId, [x, y]);
  hover(-1);
  showTip(-1);
  if (pressed.lasso) {
    state.line.push(...(state.line.length ? [] : [chart.mapped(...pressed.at)]), chart.mapped(x, y));
  } else {
    if (other) {
      const [u, v] = other[1];
      chart.zoom(Math.hypot(x - u, y - v) / Math.max(1, Math.hypot(oldX - u, oldY - v)), (x + u) / 2, (y + v) / 2);
    }
    chart.move((x - oldX) / held.size, (y - oldY) / held.size);
    canvas.classList.add("moving");
  }
  redraw();
});

canvas.addEventListener("pointerup", (event) => {
  if (!held.delete(event.pointerId)) return;
  canvas.classList.remove("moving");
  if (pressed.lasso && pressed.moved) return closeLasso(!event.altKey);
  if (pressed.moved || held.size) return;
  const touch = event.pointerType === "touch", point = chart.nearest(...placeOf(event), touch ? 24 : 14);
  if (touch) showTip(point); // on a phone the panel is below the map
  if (point >= 0) select(arrays.number[point]);
  else if (!state.line.length) drop();
});

canvas.addEventListener("pointercancel", (event) => {
  held.delete(event.pointerId);
  state.line = [];
  redraw();
});
canvas.addEventListener("pointerleave", () => hover(-1));
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoomed(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...placeOf(event));
}, { passive: false });

// Keys

function corner() {
  if (state.cursor < 0) return;
  state.line.push([chart.x[state.cursor], chart.y[state.cursor]]);
  say(`${plural(state.line.length, "corner")} of a lasso${state.line.length > 2 ? ": Enter closes it" : ""}`);
  redraw();
}

function step(by) {
  if (state.cursor >= 0) goTo(Math.max(0, Math.min(size - 1, state.cursor + by)));
  else goTo(0);
}

function along(dx, dy) {
  goTo(state.cursor < 0 ? (state.look && pointOf.get(state.look.frame.number)) ?? 0 : chart.beyond(state.cursor, dx, dy));
}

function enter(event) {
  if (state.line.length > 2) closeLasso(!event.altKey);
  else if (state.cursor >= 0) select(arrays.number[state.cursor]);
}

function zoomed(factor, ...around) {
  chart.zoom(factor, ...around);
  hover(-1);
  showTip(-1);
  redraw();
}

const keys = {
  ArrowLeft: () => along(-1, 0),
  ArrowRight: () => along(1, 0),
  ArrowUp: () => along(0, -1),
  ArrowDown: () => along(0, 1),
  PageDown: () => step(1),
  PageUp: () => step(-1),
  Home: () => goTo(0),
  End: () => goTo(size - 1),
  Enter: enter,
  " ": () => state.cursor >= 0 && toggle(frameOf(state.cursor)),
  l: corner,
  "+": () => zoomed(1.4),
  "=": () => zoomed(1.4),
  "-": () => zoomed(1 / 1.4),
  0: fit,
};

function fit() {
  chart.fit();
  zoomed(1);
}

canvas.addEventListener("keydown", (event) => {
  const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  act(event);
});
canvas.addEventListener("blur", () => showTip(-1));
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const inPanel = part("panel").contains(document.activeElement);
  drop();
  if (inPanel) canvas.focus();
});

// Buttons, and the first look

function mode(lasso) {
  state.lasso = lasso;
  part("lasso").setAttribute("aria-pressed", lasso);
  part("move").setAttribute("aria-pressed", !lasso);
  canvas.classList.toggle("lasso", lasso);
}

function about() {
  const shownOf = size < told.total ? `${size.toLocaleString("en")} of ${plural(told.total, "frame")}, evenly chosen` : plural(size, "frame");
  const sources = told.sources.length > 3 ? [`${told.sources.length} sources`] : told.sources;
  part("about").append(`${shownOf} · ${told.map} · ${told.dim} numbers each, ${told.metric} · `, ...sources.flatMap((name, i) => [i ? ", " : "", element("bdi", {}, name)]));
  canvas.setAttribute("aria-label", `Map of ${shownOf}, ${told.map}`);
}

const menu = part("colour");
const varying = columns.filter((column) => column.varies);
menu.append(...varying.map((column, i) => element("option", { value: i }, column.name)));
if (!varying.length) menu.closest("label").hidden = true;
menu.addEventListener("change", () => {
  [state.column, state.only] = [varying[menu.value], null];
  recolour();
});
part("move").addEventListener("click", () => mode(false));
part("lasso").addEventListener("click", () => mode(true));
part("closer").addEventListener("click", () => zoomed(1.4));
part("farther").addEventListener("click", () => zoomed(1 / 1.4));
part("fit").addEventListener("click", fit);
part("save").addEventListener("click", save);
part("clear").addEventListener("click", () => change([...chosen.values()], false));
part("highlighted").addEventListener("click", () => {
  change([...chart.shown.keys()].filter((i) => chart.shown[i]).map(frameOf), true);
});
darkness.addEventListener("change", recolour);
new ResizeObserver(() => { chart.resize(); redraw(); }).observe(canvas);
about();
recolour();
showLook();
part("help").open = innerWidth > 928; // on a phone below everything else

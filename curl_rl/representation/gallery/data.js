"use strict";
// What is known of the frames: from the page itself, or asked of the server that gave it.
const told = JSON.parse(document.getElementById("data").textContent);

function unpacked([kind, text]) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new globalThis[kind](bytes.buffer);
}

const arrays = Object.fromEntries(Object.entries(told.arrays).map(([name, packed]) => [name, unpacked(packed)]));
const columns = told.columns.map((column) => ({ ...column, values: unpacked(column.values) }));
const size = told.names.length; // points of the map, which are frames by their place among those shown
const pointOf = new Map(Array.from(arrays.number, (number, point) => [number, point]));

function valueOf(column, point) {
  const value = column.values[point];
  if (column.names) return value < 0 ? null : column.names[value];
  return Number.isNaN(value) ? null : value;
}

function frameOf(point) {
  return {
    number: arrays.number[point],
    name: told.names[point],
    picture: arrays.picture[point],
    repeated: arrays.repeated[point] === 1,
    values: columns.map((column) => valueOf(column, point)),
  };
}

function shown(value) {
  return typeof value === "number" ? value.toLocaleString("en", { maximumSignificantDigits: 5 }) : value;
}

// What is known of a frame: [name, text] of each column that says something.
function facts(frame) {
  const all = columns.map((column, place) => [column.name, frame.values[place]]);
  return all.filter(([, value]) => value !== null).map(([name, value]) => [name, shown(value)]);
}

// A frame, the frames most alike (near), those of other episodes (far), and those around it in its own (strip).
async function lookAt(number) {
  if (!told.served) return lookHere(pointOf.get(number));
  const answer = await fetch(`frame/${number}`);
  if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
  return answer.json();
}

function lookHere(point) {
  return { frame: frameOf(point), near: alike("near", point), far: alike("far", point), strip: around(point) };
}

function alike(kind, point) {
  if (!arrays[kind]) return [];
  const count = arrays[kind].length / size, found = [];
  for (let i = point * count; i < (point + 1) * count; i++) {
    if (arrays[kind][i] >= 0) found.push({ ...frameOf(arrays[kind][i]), value: arrays[`${kind}Values`][i] });
  }
  return found;
}

function around(point, most = 8) {
  const inside = (other) => other >= 0 && other < size && arrays.episode[other] === arrays.episode[point];
  let first = point, last = point;
  while (inside(first - 1) && point - first < most) first--;
  while (inside(last + 1) && last - point < most) last++;
  return Array.from({ length: last - first + 1 }, (_, i) => frameOf(first + i));
}

// Pictures: sheets of 32 x 32, each decoded when one of its frames is first shown; the newest twelve are kept.
const sheets = new Map();

function sheetOf(number) {
  let sheet = sheets.get(number);
  sheets.delete(number);
  if (!sheet) {
    const image = new Image();
    image.src = told.served
      ? `sheet/${number}`
      : `data:image/jpeg;base64,${document.getElementById(`sheet-${number}`).textContent}`;
    sheet = image.decode().then(() => image, () => { sheets.delete(number); }); // asked for again next time
  }
  sheets.set(number, sheet);
  if (sheets.size > 12) sheets.delete(sheets.keys().next().value);
  return sheet;
}

async function paint(canvas, frame) {
  const image = await sheetOf(frame.picture >> 10);
  if (!image) return;
  const place = frame.picture & 1023, side = told.side;
  canvas.getContext("2d").drawImage(image, (place & 31) * side, (place >> 5) * side, side, side, 0, 0, side, side);
  canvas.dataset.painted = frame.picture;
}

function pictureOf(frame) {
  const canvas = element("canvas", { className: "picture", width: told.side, height: told.side });
  if (frame) paint(canvas, frame);
  return canvas;
}

// Every text from outside becomes a text node, never HTML.
function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria")) node.setAttribute(name.replace("aria", "aria-").toLowerCase(), value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

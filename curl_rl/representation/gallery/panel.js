// The panel beside the map: one frame, those most like it, and its episode.
const measure = told.metric === "cosine" ? "cosine" : "distance";
let apart = false; // whether neighbours of the frame's own episode are left out

function showFrame(box, look, { pick, toggle, isChosen, changed }) {
  box.replaceChildren();
  if (!look) {
    const text = "Click a point to see its frame, its nearest neighbours and its place in its episode.";
    box.append(element("p", { className: "empty" }, text));
    return;
  }
  box.append(card(look.frame, toggle, isChosen(look.frame)), neighbours(look, pick, changed));
  if (look.strip.length > 1) box.append(strip(look, pick));
}

function card(frame, toggle, chosen) {
  const list = element("dl", {}, ...facts(frame).flatMap(([name, text]) => [
    element("dt", {}, element("bdi", {}, name)), element("dd", {}, element("bdi", {}, text)),
  ]));
  const button = element("button", { type: "button", id: "put" }, chosen ? "Take out of the set" : "Put into the set");
  button.addEventListener("click", () => toggle(frame));
  const heading = element("h2", {}, element("bdi", {}, frame.name));
  return element("div", { className: "card" }, pictureOf(frame), element("div", {}, heading, list, button));
}

function neighbours(look, pick, changed) {
  const box = element("input", { type: "checkbox", id: "apart", checked: apart });
  box.addEventListener("change", () => { apart = box.checked; changed(); });
  const choice = element("label", {}, box, "other episodes only");
  const several = look.strip.length > 1 || apart;
  const row = element("div", { className: "row" }, element("h3", {}, "Nearest neighbours"), ...(several ? [choice] : []));
  const found = nearestOf(look), tiles = element("div", { className: "tiles" });
  tiles.id = "near";
  for (const frame of found) {
    tiles.append(tile(frame, frame.value.toFixed(3), `${frame.name}, ${measure} ${frame.value.toFixed(3)}`, pick));
  }
  if (!found.length) tiles.append(element("p", { className: "empty" }, "There are none."));
  walkable(tiles);
  return element("section", { ariaLabel: "Nearest neighbours" }, row, tiles);
}

function nearestOf(look) {
  return apart ? look.far : look.near;
}

function strip(look, pick) {
  const tiles = element("div", { className: "strip" }), step = columns.findIndex((column) => column.name === "step");
  tiles.id = "strip";
  for (const frame of look.strip) {
    const text = step < 0 ? "" : shown(frame.values[step]);
    const button = tile(frame, text, `${frame.name}, step ${text}`, pick);
    if (frame.number === look.frame.number) button.setAttribute("aria-current", "true");
    tiles.append(button);
  }
  walkable(tiles);
  const current = tiles.querySelector("[aria-current]");
  requestAnimationFrame(() => { tiles.scrollLeft = current.offsetLeft - tiles.offsetLeft - (tiles.clientWidth - current.offsetWidth) / 2; });
  return element("section", { ariaLabel: "Its episode" }, element("div", { className: "row" }, element("h3", {}, "In its episode, by step")), tiles);
}

function tile(frame, text, label, pick) {
  const button = element("button", { type: "button", className: "tile", title: frame.name, ariaLabel: label });
  button.append(pictureOf(frame), element("span", { className: "value" }, text));
  button.dataset.number = frame.number;
  button.addEventListener("click", () => pick(frame.number));
  return button;
}

// One stop of the Tab key for all tiles; arrows go from one to the next.
function walkable(tiles) {
  const all = [...tiles.querySelectorAll(".tile")];
  const first = all.find((each) => each.getAttribute("aria-current")) || all[0];
  for (const each of all) each.tabIndex = each === first ? 0 : -1;
  tiles.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const next = all[all.indexOf(document.activeElement) + by];
    if (!by || !next) return;
    event.preventDefault();
    for (const each of all) each.tabIndex = each === next ? 0 : -1;
    next.focus();
  });
}

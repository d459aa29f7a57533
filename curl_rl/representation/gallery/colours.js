// Colours of columns: a palette for names, a ramp for numbers, each for light and dark.
const NAMED = {
  light: ["#2a6fdb", "#e06c00", "#12935a", "#c2307c", "#7a4fe0", "#a97f00", "#0a8f9e", "#cf3f3f", "#6f9414", "#66758a"],
  dark: ["#6ea8ff", "#ff9d4d", "#4fd192", "#ff7ab8", "#b79bff", "#e6c34d", "#4fd5e0", "#ff8080", "#b4dd5b", "#a9b6c8"],
};
const RAMP = {
  light: ["#f2b84b", "#ea6a47", "#b02a7a", "#4a1a9e"],
  dark: ["#5a4be0", "#c43d9d", "#ff8552", "#ffe79a"],
};
const UNKNOWN = { light: "#b9c1cc", dark: "#525c6a" };
const darkness = matchMedia("(prefers-color-scheme: dark)");
const theme = () => (darkness.matches ? "dark" : "light");

// "#rrggbb" as 0xBBGGRR, which is how a canvas keeps it.
function packed(hex) {
  const value = parseInt(hex.slice(1), 16);
  return ((value & 255) << 16) | (value & 0xff00) | (value >> 16);
}

function cssOf(colour) {
  return `rgb(${colour & 255} ${(colour >> 8) & 255} ${colour >> 16})`;
}

function namedColour(code) {
  const palette = NAMED[theme()];
  if (code < palette.length) return packed(palette[code]);
  const hue = (code * 137.508) % 360, light = theme() === "dark" ? 0.68 : 0.44; // further ones: a golden angle apart
  const part = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (light - 0.5 * Math.min(light, 1 - light) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return part(0) | (part(8) << 8) | (part(4) << 16);
}

function rampColour(share) {
  const stops = RAMP[theme()].map(packed), place = Math.min(share * (stops.length - 1), stops.length - 1.000001);
  const [from, to, part] = [stops[Math.floor(place)], stops[Math.floor(place) + 1], place % 1];
  const mixed = (shift) => Math.round(((from >> shift) & 255) * (1 - part) + ((to >> shift) & 255) * part) << shift;
  return mixed(0) | mixed(8) | mixed(16);
}

function coloursOf(column) {
  const unknown = packed(UNKNOWN[theme()]);
  if (!column) return new Uint32Array(size).fill(namedColour(0));
  if (column.names) return Uint32Array.from(column.values, (code) => (code < 0 ? unknown : namedColour(code)));
  const [least, most] = extent(column.values), ramp = Array.from({ length: 256 }, (_, i) => rampColour(i / 255));
  const place = (value) => (most > least ? Math.round((255 * (value - least)) / (most - least)) : 0);
  return Uint32Array.from(column.values, (value) => (Number.isNaN(value) ? unknown : ramp[place(value)]));
}

// The legend: of names, buttons that highlight one; of numbers, the ramp between the least and the most.
function showLegend(legend, column, only, pick) {
  legend.replaceChildren();
  if (!column) return;
  if (!column.names) {
    const [least, most] = extent(column.values);
    const ramp = element("span", { className: "ramp" });
    ramp.style.background = `linear-gradient(90deg, ${RAMP[theme()].join(", ")})`;
    legend.append(element("small", {}, shown(least)), ramp, element("small", {}, shown(most)));
    return;
  }
  const counts = new Map();
  for (const code of column.values) counts.set(code, (counts.get(code) || 0) + 1);
  const codes = [...counts.keys()].filter((code) => code >= 0).sort((a, b) => a - b);
  for (const code of [...codes.slice(0, 60), ...(counts.has(-1) ? [-1] : [])]) {
    const dot = element("i");
    dot.style.background = code < 0 ? UNKNOWN[theme()] : cssOf(namedColour(code));
    const name = element("bdi", {}, code < 0 ? "unknown" : column.names[code]);
    const told = element("small", {}, counts.get(code).toLocaleString("en"));
    const button = element("button", { type: "button", ariaPressed: code === only }, dot, name, told);
    button.addEventListener("click", () => pick(code === only ? null : code));
    legend.append(button);
  }
  if (codes.length > 60) legend.append(element("small", {}, `and ${codes.length - 60} more`));
}

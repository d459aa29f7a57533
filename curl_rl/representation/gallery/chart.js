// The map: points on one canvas, a grid that finds them again, and a view that moves.
const SPAN = 65536, CELLS = 128, CELL = SPAN / CELLS;

// Points by the cell that they lie in: a look at a place touches the points of a few cells, not all.
class Grid {
  constructor(x, y) {
    this.starts = new Int32Array(CELLS * CELLS + 1);
    this.order = new Int32Array(x.length);
    const cells = Int32Array.from(x, (value, i) => ((y[i] / CELL) | 0) * CELLS + ((value / CELL) | 0));
    for (const cell of cells) this.starts[cell + 1]++;
    for (let i = 0; i < CELLS * CELLS; i++) this.starts[i + 1] += this.starts[i];
    const next = this.starts.slice();
    cells.forEach((cell, i) => { this.order[next[cell]++] = i; });
  }

  within(left, top, right, bottom, visit) {
    const clip = (value) => Math.max(0, Math.min(CELLS - 1, Math.floor(value / CELL)));
    if (right < 0 || bottom < 0 || left >= SPAN || top >= SPAN) return;
    for (let row = clip(top) * CELLS; row <= clip(bottom) * CELLS; row += CELLS) {
      const end = this.starts[row + clip(right) + 1];
      for (let i = this.starts[row + clip(left)]; i < end; i++) visit(this.order[i]);
    }
  }
}

class Chart {
  // Args: x, y, 0 to 65535, y upwards.
  constructor(canvas, x, y) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.x = x;
    this.y = y.map((value) => SPAN - 1 - value);
    this.grid = new Grid(this.x, this.y);
    this.colours = new Uint32Array(x.length);
    this.shown = new Uint8Array(x.length).fill(1);
    this.chosen = new Uint8Array(x.length);
    this.work = { draws: 0, stamps: 0, tested: 0 }; // told to tests: frames drawn, points drawn and looked at
    this.scale = this.left = this.top = 0;
  }

  // Take the canvas's size on the page; the middle of the view stays.
  resize() {
    const box = this.canvas.getBoundingClientRect();
    if (!box.width || !box.height) return;
    const first = !this.scale;
    this.left += (box.width - (this.width || 0)) / 2;
    this.top += (box.height - (this.height || 0)) / 2;
    [this.width, this.height, this.ratio] = [box.width, box.height, devicePixelRatio || 1];
    const crowd = this.x.length <= 400 ? 5 : this.x.length <= 2500 ? 4 : this.x.length <= 8000 ? 3 : 2.4;
    this.radius = crowd * Math.max(0.7, Math.min(1, Math.min(box.width, box.height) / 520));
    this.canvas.width = Math.round(box.width * this.ratio);
    this.canvas.height = Math.round(box.height * this.ratio);
    this.base = null;
    if (first) this.fit();
    this.stale();
  }

  fit() {
    const [left, right] = extent(this.x), [top, bottom] = extent(this.y), margin = 24;
    const across = (this.width - 2 * margin) / Math.max(1, right - left);
    const down = (this.height - 2 * margin) / Math.max(1, bottom - top);
    this.scale = this.whole = Math.min(across, down, this.width / 64);
    this.left = this.width / 2 - (this.scale * (left + right)) / 2;
    this.top = this.height / 2 - (this.scale * (top + bottom)) / 2;
    this.stale();
  }

  zoom(factor, px = this.width / 2, py = this.height / 2) {
    const scale = Math.max(this.whole / 2, Math.min(this.whole * 400, this.scale * factor));
    this.left = px - ((px - this.left) * scale) / this.scale;
    this.top = py - ((py - this.top) * scale) / this.scale;
    this.scale = scale;
    this.stale();
  }

  move(dx, dy) {
    this.left += dx;
    this.top += dy;
    this.stale();
  }

  // Move so far that a point is in sight.
  reveal(i) {
    const [px, py] = this.at(i), margin = 20;
    const by = (value, most) => Math.max(margin - value, 0) + Math.min(most - margin - value, 0);
    if (by(px, this.width) || by(py, this.height)) this.move(by(px, this.width), by(py, this.height));
  }

  at(i) {
    return this.onScreen([this.x[i], this.y[i]]);
  }

  // Call `visit` for the points in the cells that a box on the screen meets.
  within(left, top, right, bottom, visit) {
    this.grid.within(...this.mapped(left, top), ...this.mapped(right, bottom), visit);
  }

  // The nearest point within some pixels of a place, -1 where there is none; highlighted ones alone.
  nearest(px, py, reach) {
    let best = -1, least = reach * reach;
    this.within(px - reach, py - reach, px + reach, py + reach, (i) => {
      this.work.tested++;
      const [x, y] = this.at(i), distance = (x - px) ** 2 + (y - py) ** 2;
      if (this.shown[i] && distance <= least) [best, least] = [i, distance];
    });
    return best;
  }

  // The next point from one in a direction, at most half as much aside as ahead; -1 where there is none.
  beyond(from, dx, dy) {
    let best = -1, least = Infinity;
    for (let i = 0; i < this.x.length; i++) {
      const x = this.x[i] - this.x[from], y = this.y[i] - this.y[from];
      const ahead = x * dx + y * dy, aside = Math.abs(x * dy + y * dx), cost = ahead + 2 * aside;
      if (this.shown[i] && ahead > 0 && aside <= ahead && cost < least) [best, least] = [i, cost];
    }
    return best;
  }

  // A place on the screen as one of the map, and back: what is drawn on the map moves with it.
  mapped(px, py) {
    return [(px - this.left) / this.scale, (py - this.top) / this.scale];
  }

  onScreen([x, y]) {
    return [this.left + x * this.scale, this.top + y * this.scale];
  }

  // The highlighted points inside a closed line of [x, y] of the map.
  inside(line) {
    const found = [], [left, right] = extent(line.map(([x]) => x)), [top, bottom] = extent(line.map(([, y]) => y));
    this.grid.within(left, top, right, bottom, (i) => {
      this.work.tested++;
      if (this.shown[i] && encloses(line, this.x[i], this.y[i])) found.push(i);
    });
    return found.sort((a, b) => a - b);
  }

  stale() {
    this.old = true;
  }

  // Draw the points where they or the view have changed, and what `marks` draws over them.
  draw(paper, ring, marks) {
    if (!this.width) return;
    this.work.draws++;
    if (this.old || !this.base) this.stamp(paper, ring);
    this.old = false;
    this.context.putImageData(this.base, -this.pad, -this.pad);
    this.context.save();
    this.context.scale(this.ratio, this.ratio);
    marks(this.context);
    this.context.restore();
  }

  // Draw the points into memory: a margin around it takes those that lie half outside.
  stamp(paper, ring) {
    const radius = this.radius * Math.min(2.2, Math.max(1, (this.scale / this.whole) ** 0.25)) * this.ratio;
    const edge = radius + 1.6 * this.ratio;
    const pad = Math.ceil(edge) + 1, width = this.canvas.width + 2 * pad, height = this.canvas.height + 2 * pad;
    if (!this.base || this.base.width !== width || this.base.height !== height) this.base = new ImageData(width, height);
    this.pad = pad;
    const pixels = new Uint32Array(this.base.data.buffer).fill(0xff000000 | paper);
    const disc = stampOf(radius, width, 0.88), faint = stampOf(radius * 0.8, width, 0.16), rim = stampOf(edge, width, 1);
    const across = width - pad + edge, down = height - pad + edge, least = pad - edge;
    const put = (i, stamp, colour) => {
      const x = Math.round((this.left + this.x[i] * this.scale) * this.ratio) + pad;
      const y = Math.round((this.top + this.y[i] * this.scale) * this.ratio) + pad;
      if (x < least || y < least || x > across || y > down) return;
      this.work.stamps++;
      blend(pixels, y * width + x, stamp, colour);
    };
    const each = (visit) => this.within(-edge, -edge, this.width + edge, this.height + edge, visit);
    if (this.shown.includes(0)) each((i) => { if (!this.shown[i]) put(i, faint, this.colours[i]); });
    each((i) => { if (this.shown[i] && !this.chosen[i]) put(i, disc, this.colours[i]); });
    if (!this.chosen.includes(1)) return;
    each((i) => { if (this.chosen[i]) put(i, rim, ring); });
    each((i) => { if (this.chosen[i]) put(i, disc, this.colours[i]); });
  }
}

// A disc as distances from its middle in a picture of some width, and how much it covers there, of 256.
function stampOf(radius, width, opacity) {
  const offsets = [], covers = [], most = Math.ceil(radius);
  for (let dy = -most; dy <= most; dy++) {
    for (let dx = -most; dx <= most; dx++) {
      const cover = Math.round(256 * opacity * Math.max(0, Math.min(1, radius + 0.5 - Math.hypot(dx, dy))));
      if (cover) [offsets[offsets.length], covers[covers.length]] = [dy * width + dx, cover];
    }
  }
  return { offsets: Int32Array.from(offsets), covers: Uint16Array.from(covers) };
}

// Lay a colour 0xBBGGRR over pixels: red and blue at once, then green.
function blend(pixels, middle, { offsets, covers }, colour) {
  const redBlue = colour & 0xff00ff, green = colour & 0xff00;
  for (let k = 0; k < offsets.length; k++) {
    const place = middle + offsets[k], over = covers[k], under = 256 - over, pixel = pixels[place];
    const outer = (((pixel & 0xff00ff) * under + redBlue * over) >>> 8) & 0xff00ff;
    pixels[place] = 0xff000000 | outer | ((((pixel & 0xff00) * under + green * over) >>> 8) & 0xff00);
  }
}

function extent(values) {
  let least = Infinity, most = -Infinity;
  for (const value of values) {
    if (value < least) least = value;
    if (value > most) most = value;
  }
  return [least, most];
}

// Whether a closed line goes around a place: a ray from it crosses the line an odd number of times.
function encloses(line, px, py) {
  let odd = false;
  for (let i = 0, j = line.length - 1; i < line.length; j = i++) {
    const [x, y] = line[i], [u, v] = line[j];
    if (y > py !== v > py && px < ((u - x) * (py - y)) / (v - y) + x) odd = !odd;
  }
  return odd;
}

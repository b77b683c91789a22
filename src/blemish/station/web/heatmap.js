/** The arithmetic of anomaly maps, as `blemish` does it: resizing, heat, contour, regions, thresholds. */

/** Weights of Pillow's triangle filter along one axis: for each of `to` values, where it starts and its weights. */
function triangle(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const stop = Math.min(from, Math.trunc(centre + support + 0.5));
    const weights = Array.from({ length: stop - start }, (_, k) =>
      Math.max(0, 1 - Math.abs(start + k + 0.5 - centre) / support),
    );
    const total = weights.reduce((a, b) => a + b, 0);
    return { start, weights: weights.map((w) => w / total) };
  });
}

/** Resize a map {values, width, height}, bilinear, widened where it is reduced. */
export function resized(map, width, height) {
  if (map.width === width && map.height === height) return map;
  const across = new Float32Array(width * map.height);
  triangle(map.width, width).forEach(({ start, weights }, x) => {
    for (let y = 0; y < map.height; y++) {
      let sum = 0;
      for (let k = 0; k < weights.length; k++) sum += weights[k] * map.values[y * map.width + start + k];
      across[y * width + x] = sum;
    }
  });
  const values = new Float32Array(width * height);
  triangle(map.height, height).forEach(({ start, weights }, y) => {
    for (let k = 0; k < weights.length; k++) {
      const row = (start + k) * width;
      for (let x = 0; x < width; x++) values[y * width + x] += weights[k] * across[row + x];
    }
  });
  return { values, width, height };
}

/** Paint a map's heat into RGBA as `blemish.images.draw.overlay`: blue, unseen, at `low` to opaque dark red at `high`. */
export function heat(map, [low, high], pixels) {
  const span = Math.max(high - low, 1e-12);
  for (let i = 0; i < map.values.length; i++) {
    const t = Math.min(1, Math.max(0, (map.values[i] - low) / span));
    for (let c = 0; c < 3; c++) {
      pixels[4 * i + c] = 255 * Math.min(1, Math.max(0, 1.5 - Math.abs(4 * t - (3 - c))));
    }
    pixels[4 * i + 3] = 255 * t;
  }
}

const CORNERS = [
  [0, 0],
  [1, 0],
  [1, 1],
  [0, 1],
];

/**
 * Find where a map crosses a level (marching squares, linear along the edges of cells).
 * Returns line segments x0, y0, x1, y1, … in pixels of the map, whose values lie at pixel centres. Outside of
 * the map counts as the level, so that every line closes.
 */
export function contour(map, level) {
  const { values, width, height } = map;
  const stride = width + 2;
  const above = new Uint8Array(stride * (height + 2));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) above[(y + 1) * stride + x + 1] = values[y * width + x] > level;
  }
  const value = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? level : values[y * width + x]);
  const lines = [];
  for (let y = -1; y < height; y++) {
    for (let x = -1; x < width; x++) {
      const i = (y + 1) * stride + x + 1;
      const many = above[i] + above[i + 1] + above[i + stride + 1] + above[i + stride];
      if (many === 0 || many === 4) continue;
      const inside = [above[i], above[i + 1], above[i + stride + 1], above[i + stride]];
      for (let edge = 0; edge < 4; edge++) {
        // 2 crossings make a line, 4 (a saddle) two
        const next = (edge + 1) % 4;
        if (inside[edge] === inside[next]) continue;
        const [[ax, ay], [bx, by]] = [CORNERS[edge], CORNERS[next]];
        const here = value(x + ax, y + ay);
        const part = (level - here) / (value(x + bx, y + by) - here);
        lines.push(
          within(x + 0.5 + ax + part * (bx - ax), width),
          within(y + 0.5 + ay + part * (by - ay), height),
        );
      }
    }
  }
  return lines;
}

const within = (value, size) => Math.min(size, Math.max(0, value));

/** Find the 8-connected regions above a level, worst first, in pixels of the map; the box is half open. */
export function regions(map, level) {
  const { values, width, height } = map;
  const seen = new Uint8Array(values.length);
  const found = [];
  for (let first = 0; first < values.length; first++) {
    if (seen[first] || !(values[first] > level)) continue;
    const region = { x0: width, y0: height, x1: 0, y1: 0, area_px: 0, peak: -Infinity };
    const waiting = [first];
    seen[first] = 1;
    while (waiting.length) {
      const i = waiting.pop();
      const x = i % width,
        y = (i - x) / width;
      region.x0 = Math.min(region.x0, x);
      region.y0 = Math.min(region.y0, y);
      region.x1 = Math.max(region.x1, x + 1);
      region.y1 = Math.max(region.y1, y + 1);
      region.area_px += 1;
      region.peak = Math.max(region.peak, values[i]);
      for (let ny = Math.max(0, y - 1); ny <= Math.min(height - 1, y + 1); ny++) {
        for (let nx = Math.max(0, x - 1); nx <= Math.min(width - 1, x + 1); nx++) {
          const j = ny * width + nx;
          if (!seen[j] && values[j] > level) {
            seen[j] = 1;
            waiting.push(j);
          }
        }
      }
    }
    found.push(region);
  }
  return found.sort((a, b) => b.peak - a.peak);
}

/** The number of n calibration images that may lie above the threshold of a rate: the largest k, k / (n + 1) <= rate. */
export function allowed(n, rate) {
  const k = Math.floor(rate * (n + 1));
  if ((k + 1) / (n + 1) <= rate) return k + 1; // the product may round across a whole number
  return k / (n + 1) > rate ? k - 1 : k;
}

/** The threshold of a rate among ascending calibration values: the k-th largest; null when k = 0. */
export function threshold(ascending, rate) {
  const k = allowed(ascending.length, rate);
  return k === 0 ? null : ascending[ascending.length - k];
}

// A result as the server sends it (see "maps" in /openapi.json), and how it looks.

const inflated = async (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
};

const rgb = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));

export class LabelMap {
  /** @param record the server's answer with maps=true */
  static async from(record) {
    const { width, height, labels, confidence, confidence_steps, colours } = record.maps;
    const map = new LabelMap();
    Object.assign(map, { width, height, steps: confidence_steps, names: record.labels, colours });
    const words = new DataView(await inflated(labels));
    map.labels = new Int32Array(width * height); // -1 is unknown
    for (let i = 0; i < map.labels.length; i++) map.labels[i] = words.getUint16(2 * i, true) - 1;
    map.confidence = new Uint8Array(await inflated(confidence));
    for (let y = 0; y < height; y++) { // undo the differences along rows
      for (let i = y * width + 1; i < (y + 1) * width; i++) {
        map.confidence[i] += map.confidence[i - 1];
      }
    }
    return map;
  }

  /** Label of a pixel when confidences below `threshold` (in steps) are unknown. */
  at(i, threshold) {
    return this.confidence[i] < threshold ? -1 : this.labels[i];
  }

  /** Pixels and summed confidence of unknown (index 0) and of every label (index label + 1). */
  counts(threshold) {
    const areas = new Float64Array(this.names.length + 1);
    const sums = new Float64Array(this.names.length + 1);
    for (let i = 0; i < this.labels.length; i++) {
      const k = this.at(i, threshold) + 1;
      areas[k] += 1;
      sums[k] += this.confidence[i];
    }
    return [...areas].map((area, k) => ({
      share: area / this.labels.length,
      confidence: area ? sums[k] / area / this.steps : 0,
    }));
  }

  /**
   * Colours over the photo, light lines where labels meet.
   * @param photo  ImageData of the map's size
   * @param look   {threshold, opacity, hidden: Set of labels, focus: label or null}
   */
  paint(photo, { threshold, opacity, hidden, focus }) {
    const { width, height } = this;
    const from = photo.data;
    const picture = new ImageData(width, height);
    const to = picture.data;
    const table = this.colours.map(rgb);
    const shown = new Int32Array(width * height); // -1 unknown, -2 hidden
    for (let i = 0; i < shown.length; i++) {
      const label = this.at(i, threshold);
      shown[i] = hidden.has(label) ? -2 : label;
    }
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        const label = shown[i];
        const p = 4 * i;
        const grey = 0.299 * from[p] + 0.587 * from[p + 1] + 0.114 * from[p + 2];
        const apart = focus !== null && label !== focus;
        const strength = apart ? 0.25 * opacity : opacity;
        const edge = opacity > 0 && ((x && shown[i - 1] !== label) || (y && shown[i - width] !== label));
        for (let c = 0; c < 3; c++) {
          let value = from[p + c];
          if (label >= 0) {
            const dim = 0.75 * (0.35 * value + 0.65 * grey) + 12; // so that colours look like swatches
            value = (1 - strength) * (value + strength * (dim - value)) + strength * table[label][c];
          } else if (label === -1) {
            const dark = Math.min(1, 1.7 * opacity);
            value = (1 - dark) * value + dark * 0.5 * grey;
          }
          if (apart) value = 0.55 * value + 0.45 * 0.6 * grey;
          if (edge) value += 0.7 * (255 - value);
          to[p + c] = value;
        }
        to[p + 3] = 255;
      }
    }
    return picture;
  }
}

/** The picture with names and shares below it, as a canvas. `rows`: [{colour, name, share}] */
export function withLegend(canvas, rows) {
  const em = Math.max(14, Math.round(Math.max(canvas.width, canvas.height) / 46));
  const column = 15 * em;
  const columns = Math.max(1, Math.floor((canvas.width - em) / column));
  const lines = Math.ceil(rows.length / columns);
  const sheet = document.createElement("canvas");
  sheet.width = Math.max(canvas.width, column + em);
  sheet.height = canvas.height + lines * 1.75 * em + 1.5 * em;
  const draw = sheet.getContext("2d");
  draw.fillStyle = "#fff";
  draw.fillRect(0, 0, sheet.width, sheet.height);
  draw.drawImage(canvas, (sheet.width - canvas.width) / 2, 0);
  draw.font = `${em}px system-ui, sans-serif`;
  draw.textBaseline = "middle";
  rows.forEach(({ colour, name, share }, n) => {
    const x = em + (n % columns) * column;
    const y = canvas.height + 1.6 * em + Math.floor(n / columns) * 1.75 * em;
    draw.fillStyle = colour;
    draw.fillRect(x, y - em / 2, em, em);
    draw.fillStyle = "#222226";
    draw.fillText(name, x + 1.5 * em, y, 9.2 * em);
    draw.fillStyle = "#6a6a70";
    draw.fillText(share, x + 11 * em, y);
  });
  return sheet;
}

// From a file to the answer, as imgbench gives it. The model resizes and crops photographs itself.
"use strict";

const SIGNATURES = [
  ["JPEG", /^\xff\xd8\xff/], ["PNG", /^\x89PNG\r\n\x1a\n/], ["GIF", /^GIF8[79]a/], ["BMP", /^BM/],
  ["WebP", /^RIFF[^]{4}WEBP/], ["AVIF", /^[^]{4}ftypavi[fs]/], ["AVIF", /^[^]{4}ftyp(mif1|msf1)[^]*avif/],
  ["HEIC", /^[^]{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)/], ["TIFF", /^(II[*+]\0|MM\0[*+])/],
  ["JPEG 2000", /^(\xff\x4f\xff\x51|\0\0\0\x0cjP {2}\r\n\x87\n)/], ["PPM", /^P[1-6]\s/],
];
const ROWS = 64, COLUMNS = 4096; // drawn at a time: a photograph as a whole would be more than a phone's canvas may hold
const LARGEST = 50e6; // pixels; the browser makes larger photographs smaller, so that they fit into memory

// Why a picture cannot be classified: a name in the texts, and the format.
class PictureError extends Error {
  constructor(key, format = "") { super(key); this.key = key; this.format = format; }
}

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), character => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// What computes the model. Loader and code come from the scripts beside the page: a page on a disk may load no others.
async function createSession() {
  ort.env.wasm.numThreads = 1; // more need headers that few web spaces send
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([LOADER], { type: "text/javascript" })) };
  ort.env.wasm.wasmBinary = await unpacked(WASM);
  return ort.InferenceSession.create(await unpacked(MODEL), { executionProviders: ["wasm"] });
}

function formatOf(bytes) {
  const head = String.fromCharCode(...bytes.subarray(0, 64));
  return SIGNATURES.find(([, signature]) => signature.test(head))?.[0];
}

async function decoded(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const format = formatOf(bytes);
  if (!format) throw new PictureError("not_a_picture");
  // Of 16 bits for each value, browsers keep 8, and not those that the model knows.
  const old = FACTS.decoding < 2; // of colours, such models know the high bytes
  if (format === "PNG" && bytes[24] === 16 && !(old && bytes[25])) throw new PictureError("picture_deep");
  if (format === "JPEG" && !isWhole(bytes)) throw new PictureError("picture_damaged");
  // Upright by the camera's tag, and in the colours of sRGB, which are those of a canvas.
  const options = { imageOrientation: "from-image", colorSpaceConversion: old ? "none" : "default" };
  try {
    const blob = new Blob([bytes], { type: file.type }), bitmap = await createImageBitmap(blob, options);
    const smaller = Math.ceil(Math.sqrt((bitmap.width * bitmap.height) / LARGEST));
    if (smaller < 2) return bitmap;
    bitmap.close();
    const resizeWidth = Math.ceil(bitmap.width / smaller);
    return await createImageBitmap(blob, { ...options, resizeWidth, resizeQuality: "high" });
  } catch {
    const known = ["JPEG", "PNG", "GIF", "BMP", "WebP"].includes(format);
    throw new PictureError(known ? "picture_damaged" : "picture_format", format);
  }
}

// Browsers show what there is of a JPEG that was cut short: nothing ends it after its last scan.
function isWhole(bytes) {
  for (let i = bytes.length - 2; i > 0; i--) {
    if (bytes[i] !== 0xff) continue;
    if (bytes[i + 1] === 0xd9) return true;
    if (bytes[i + 1] === 0xda) return false;
  }
  return false;
}

// What the model takes: RGB (height, width, 3) of a picture over white.
function pixelsOf(bitmap) {
  const { width, height } = bitmap, pixels = new Uint8Array(width * height * 3);
  const canvas = document.createElement("canvas");
  canvas.width = Math.min(COLUMNS, width);
  canvas.height = Math.min(ROWS, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.fillStyle = "#fff";
  for (let top = 0; top < height; top += canvas.height) {
    for (let left = 0; left < width; left += canvas.width) {
      const columns = Math.min(canvas.width, width - left), rows = Math.min(canvas.height, height - top);
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.drawImage(bitmap, -left, -top);
      const { data } = context.getImageData(0, 0, columns, rows);
      for (let y = 0, i = 0; y < rows; y++) {
        let place = ((top + y) * width + left) * 3;
        for (let x = 0; x < columns; x++, i += 4) {
          pixels[place++] = data[i];
          pixels[place++] = data[i + 1];
          pixels[place++] = data[i + 2];
        }
      }
    }
  }
  return pixels;
}

// The answer to one picture: `probabilities`, `pixels` (size, size, 3) as the network sees them and, if it tells, `novelty`.
async function answer(session, pixels, height, width) {
  const found = await session.run({ images: new ort.Tensor("uint8", pixels, [1, height, width, 3]) });
  const { probabilities, pixels: seen, novelty } = found;
  return { probabilities: [...probabilities.data], pixels: seen.data, novelty: novelty ? novelty.data[0] : 0 };
}

// Why an answer is unsure: a name in the texts.
function doubtOf({ probabilities, novelty }) {
  if (FACTS.limit !== null && novelty >= FACTS.limit) return "doubt_unlike";
  return "threshold" in FACTS && !(Math.max(...probabilities) > FACTS.threshold) ? "doubt_probability" : "";
}

// Of what the network sees: probabilities. What the model crops of a picture of this size is put around it before.
async function again(session, pixels) {
  const { size, stored, margin } = FACTS, square = new Uint8Array(stored * stored * 3);
  for (let y = 0; y < size; y++) square.set(pixels.subarray(3 * y * size, 3 * (y + 1) * size), 3 * ((y + margin) * stored + margin));
  return (await answer(session, square, stored, stored)).probabilities;
}

// Python's round: halves go to the even neighbour.
function round(value) {
  const floor = Math.floor(value), rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2) ? floor + 1 : floor;
}

// By how much the log-odds of a class fall where each square of a grid is hidden: imgbench/inference/occlusion.py.
async function occlusion(session, pixels, label, grid = 7) {
  const { size } = FACTS, edges = Array.from({ length: grid + 1 }, (_, i) => round((i * size) / grid));
  const mean = [0, 1, 2].map(channel => {
    let sum = 0;
    for (let i = channel; i < pixels.length; i += 3) sum += pixels[i];
    return round(sum / (size * size));
  });
  const odds = p => {
    const others = p.reduce((sum, value, i) => (i === label ? sum : sum + value), 0);
    return Math.log(Math.max(p[label], 1e-30)) - Math.log(Math.max(others, 1e-30));
  };
  const whole = odds(await again(session, pixels)), heat = [];
  for (let row = 0; row < grid; row++) {
    for (let column = 0; column < grid; column++) {
      const hidden = pixels.slice();
      for (let y = edges[row]; y < edges[row + 1]; y++) {
        for (let x = edges[column]; x < edges[column + 1]; x++) hidden.set(mean, (y * size + x) * 3);
      }
      heat.push(whole - odds(await again(session, hidden)));
    }
    await new Promise(resolve => setTimeout(resolve)); // lets the page live meanwhile
  }
  return heat;
}

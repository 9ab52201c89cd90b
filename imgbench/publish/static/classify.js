// From a file to probabilities, as imgbench computes them: imgbench/preprocessing.py says why it is done so.
"use strict";

const SIGNATURES = [
  ["JPEG", /^\xff\xd8\xff/], ["PNG", /^\x89PNG\r\n\x1a\n/], ["GIF", /^GIF8[79]a/], ["BMP", /^BM/],
  ["WebP", /^RIFF[^]{4}WEBP/], ["AVIF", /^[^]{4}ftypavi[fs]/], ["AVIF", /^[^]{4}ftyp(mif1|msf1)[^]*avif/],
  ["HEIC", /^[^]{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)/], ["TIFF", /^(II[*+]\0|MM\0[*+])/],
  ["JPEG 2000", /^(\xff\x4f\xff\x51|\0\0\0\x0cjP {2}\r\n\x87\n)/], ["PPM", /^P[1-6]\s/],
];
const ROWS = 64; // that are drawn at a time: a photograph as a whole would be more than a phone's canvas may hold
const PRECISION = 1 << 22; // of Pillow's weights, which are whole numbers

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
    return await createImageBitmap(new Blob([bytes], { type: file.type }), options);
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

// Pillow's `precompute_coeffs` for bilinear resizing with antialiasing: first input pixel and weights of each output pixel.
function coefficients(from, to) {
  const scale = from / to, support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), from);
    const weights = [];
    for (let x = first; x < end; x++) weights.push(Math.max(1 - Math.abs((x - center + 0.5) * (1 / support)), 0));
    const sum = weights.reduce((a, b) => a + b, 0);
    return [first, weights.map(weight => Math.trunc(0.5 + (weight / sum) * PRECISION))];
  });
}

const rounded = sum => Math.min(Math.max(Math.floor((sum + PRECISION / 2) / PRECISION), 0), 255);

// RGB (height, width, 3) of a picture over white, of another size: first across, then down, as Pillow does it.
function resized(bitmap, width, height) {
  const across = coefficients(bitmap.width, width), down = coefficients(bitmap.height, height);
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = Math.min(ROWS, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.fillStyle = "#fff";
  const narrow = new Uint8Array(bitmap.height * width * 3);
  for (let top = 0; top < bitmap.height; top += ROWS) {
    const rows = Math.min(ROWS, bitmap.height - top);
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, -top);
    const { data } = context.getImageData(0, 0, bitmap.width, rows);
    for (let y = 0; y < rows; y++) {
      let place = (top + y) * width * 3;
      for (const [first, weights] of across) {
        let red = 0, green = 0, blue = 0, i = (y * bitmap.width + first) * 4;
        for (const weight of weights) {
          red += data[i] * weight;
          green += data[i + 1] * weight;
          blue += data[i + 2] * weight;
          i += 4;
        }
        narrow[place++] = rounded(red);
        narrow[place++] = rounded(green);
        narrow[place++] = rounded(blue);
      }
    }
  }
  const pixels = new Uint8Array(width * height * 3), line = width * 3;
  down.forEach(([first, weights], row) => {
    for (let x = 0; x < line; x++) {
      let sum = 0;
      weights.forEach((weight, k) => { sum += narrow[(first + k) * line + x] * weight; });
      pixels[row * line + x] = rounded(sum);
    }
  });
  return pixels;
}

// Python's round: halves go to the even neighbour.
function round(value) {
  const floor = Math.floor(value), rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2) ? floor + 1 : floor;
}

// What the network sees, RGB (size, size, 3): stretched, or the centre where the short side is given.
function preprocessed(bitmap) {
  const { size, short_side: short } = FACTS;
  if (short === null) return resized(bitmap, size, size);
  let width = short, height = short;
  if (bitmap.width <= bitmap.height) height = Math.max(short, Math.trunc((short * bitmap.height) / bitmap.width));
  else width = Math.max(short, Math.trunc((short * bitmap.width) / bitmap.height));
  const pixels = resized(bitmap, width, height), margin = round((short - size) / 2);
  const left = round((width - short) / 2) + margin, top = round((height - short) / 2) + margin;
  const square = new Uint8Array(size * size * 3);
  for (let y = 0; y < size; y++) {
    const start = ((top + y) * width + left) * 3;
    square.set(pixels.subarray(start, start + size * 3), y * size * 3);
  }
  return square;
}

// Probabilities (n, classes) of n squares of pixels in a row.
async function probabilities(session, pixels) {
  const { size } = FACTS, count = pixels.length / (size * size * 3);
  const found = await session.run({ images: new ort.Tensor("uint8", pixels, [count, size, size, 3]) });
  return Array.from({ length: count }, (_, i) => found.probabilities.data.slice(i * FACTS.classes.length, (i + 1) * FACTS.classes.length));
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
  const whole = odds((await probabilities(session, pixels))[0]), heat = [];
  for (let row = 0; row < grid; row++) {
    for (let column = 0; column < grid; column++) {
      const hidden = pixels.slice();
      for (let y = edges[row]; y < edges[row + 1]; y++) {
        for (let x = edges[column]; x < edges[column + 1]; x++) hidden.set(mean, (y * size + x) * 3);
      }
      heat.push(whole - odds((await probabilities(session, hidden))[0]));
    }
    await new Promise(resolve => setTimeout(resolve)); // lets the page live meanwhile
  }
  return heat;
}

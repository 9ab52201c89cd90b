// Names photographs with an exported model in Node: node predict.mjs model.onnx photo.jpg ... [--max-error=0.02]
// Needs: npm install onnxruntime-node sharp. Files of more than 8 bits, BMP, HEIC and DICOM are for imgbench itself.
import { readFileSync } from "node:fs";
import ort from "onnxruntime-node";
import sharp from "sharp";

// What the file says of itself; onnxruntime shows it to other languages only. It lies under a key of eight letters.
function factsOf(model) {
  let place = model.lastIndexOf("\x0a\x08imgbench\x12", undefined, "latin1") + 11, length = 0, shift = 0;
  do length += (model[place] & 127) * 2 ** shift, (shift += 7); while (model[place++] & 128);
  return JSON.parse(model.toString("utf8", place, place + length));
}

// Rounded as Pillow rounds it.
function overWhite(value, opacity) {
  const sum = 128 * (value * opacity + 255 * (255 - opacity) + 128);
  return (sum + (sum >> 8)) >> 15;
}

// RGB, upright, over white and in sRGB; the model resizes and crops it itself.
async function pixelsOf(file) {
  const image = sharp(file, { limitInputPixels: 300_000_000, pages: 1 });
  const { depth } = await image.metadata();
  if (depth !== "uchar") throw new Error(`${file} has more than 8 bits: imgbench predict reads it`);
  const upright = image.rotate().toColourspace("srgb").ensureAlpha();
  const { data, info } = await upright.raw().toBuffer({ resolveWithObject: true });
  const pixels = new Uint8Array(info.height * info.width * 3);
  for (let from = 0, to = 0; from < data.length; from++) {
    if (from % 4 < 3) pixels[to++] = overWhite(data[from], data[from - (from % 4) + 3]);
  }
  return new ort.Tensor("uint8", pixels, [1, info.height, info.width, 3]);
}

const [path, ...words] = process.argv.slice(2);
const maxError = words.find(word => word.startsWith("--max-error="))?.slice(12);
const model = readFileSync(path), facts = factsOf(model), session = await ort.InferenceSession.create(model);
const rule = (facts.acceptance ?? []).find(one => one.max_error === Number(maxError));
if (maxError && typeof rule?.threshold !== "number") throw new Error(`The model cannot promise --max-error=${maxError}`);
const [threshold, limit] = maxError ? [rule.threshold, rule.limit] : [0, facts.novelty_limit ?? null];
for (const photo of words.filter(word => !word.startsWith("--"))) {
  const { probabilities, novelty } = await session.run({ images: await pixelsOf(photo) });
  const sure = Math.max(...probabilities.data) > threshold && (limit === null || novelty.data[0] < limit);
  console.log(sure ? photo : `${photo}  unsure`);
  facts.class_names.forEach((name, i) => console.log(`  ${name}  ${probabilities.data[i].toFixed(6)}`));
}

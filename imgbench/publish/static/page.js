// The page: takes pictures, and shows what the model says of each.
"use strict";

const LANGUAGES = Object.keys(FACTS.texts);
let language = LANGUAGES.find(one => (navigator.language || "").toLowerCase().startsWith(one)) || LANGUAGES[0];
const MOST_NAMED = 30; // classes, at the start
let loaded = null; // the session, as a promise
let queue = Promise.resolve(); // pictures are answered one after the other

const text = (key, values = {}) => FACTS.texts[language][key].replace(/{(\w+)}/g, (_, name) => values[name]);
const percent = value => `${(100 * value).toFixed(1) === "100.0" ? "100" : (100 * value).toFixed(1)}\u00a0%`;

function element(name, content = "", className = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(content);
  return made;
}

// Of a text that follows the language.
function worded(name, key, values = {}, className = "") {
  const made = element(name, text(key, values), className);
  made.dataset.text = key;
  made.dataset.values = JSON.stringify(values);
  return made;
}

function speak(chosen) {
  language = chosen;
  document.documentElement.lang = chosen === "zh" ? "zh-CN" : chosen;
  document.title = document.querySelector("h1").textContent = FACTS.title[chosen];
  document.querySelectorAll("[data-text]").forEach(place => {
    place.textContent = text(place.dataset.text, JSON.parse(place.dataset.values || "{}"));
  });
  document.querySelectorAll("nav button").forEach(button => button.setAttribute("aria-pressed", button.lang === chosen));
}

function state(key) {
  const place = document.getElementById("state");
  place.dataset.text = key;
  place.textContent = key ? text(key) : "";
  if (!key) delete place.dataset.text;
}

function session() {
  if (!loaded) {
    state("loading");
    loaded = createSession();
    loaded.then(() => state(""), error => { console.error(error); state("not_loaded"); });
  }
  return loaded;
}

function drawn(pixels, side) {
  const canvas = element("canvas", "", side <= 64 ? "pixels" : "");
  canvas.width = canvas.height = side;
  const image = new ImageData(side, side);
  for (let i = 0; i < side * side; i++) image.data.set([pixels[3 * i], pixels[3 * i + 1], pixels[3 * i + 2], 255], 4 * i);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// The picture in grey, glowing where the map is above its mean: what speaks for the answer.
function withHeat(pixels, heat) {
  const { size } = FACTS, grid = Math.sqrt(heat.length), mean = heat.reduce((a, b) => a + b) / heat.length;
  const above = heat.map(value => Math.max(value - mean, 0)), most = Math.max(...above, 1e-12);
  const at = (row, column) => above[Math.min(Math.max(row, 0), grid - 1) * grid + Math.min(Math.max(column, 0), grid - 1)] / most;
  const glowing = new Uint8Array(pixels.length);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const v = ((y + 0.5) / size) * grid - 0.5, u = ((x + 0.5) / size) * grid - 0.5, r = Math.floor(v), c = Math.floor(u);
      const upper = at(r, c) * (c + 1 - u) + at(r, c + 1) * (u - c), lower = at(r + 1, c) * (c + 1 - u) + at(r + 1, c + 1) * (u - c);
      const strength = upper * (r + 1 - v) + lower * (v - r), opacity = Math.min(1.2 * strength, 0.75), i = 3 * (y * size + x);
      const grey = 64 + 0.6 * (0.299 * pixels[i] + 0.587 * pixels[i + 1] + 0.114 * pixels[i + 2]);
      [255, 80 + 150 * strength, 30].forEach((glow, k) => { glowing[i + k] = (1 - opacity) * grey + opacity * glow; });
    }
  }
  return glowing;
}

async function answered(file) {
  const article = element("article");
  article.append(element("div", file.name, "name"));
  try {
    const bitmap = await decoded(file);
    const whole = pixelsOf(bitmap), { width, height } = bitmap;
    bitmap.close();
    const computing = await session();
    const found = await answer(computing, whole, height, width), { pixels } = found;
    const ranked = found.probabilities.map((p, i) => [p, i]).sort((a, b) => b[0] - a[0] || a[1] - b[1]);
    const doubt = doubtOf(found);
    article.append(doubt ? worded("h2", "unsure_answer") : element("h2", FACTS.classes[ranked[0][1]]));
    if (doubt) {
      article.className = "unsure";
      article.append(worded("p", doubt));
    }
    const row = element("div", "", "row"), figure = element("figure", drawn(pixels, FACTS.size)), table = element("table");
    figure.append(worded("figcaption", "as_seen"));
    for (const [p, i] of ranked.slice(0, 5)) {
      const line = table.insertRow(), bar = element("i");
      bar.style.width = `${100 * p}%`;
      line.append(element("td", FACTS.classes[i]), element("td", percent(p), "number"));
      if (!doubt) line.append(element("td", bar, "bar")); // a full bar would look like an answer
    }
    row.append(figure, table);
    const look = worded("button", "look", {}, "look");
    look.type = "button";
    look.onclick = () => {
      look.disabled = true;
      queue = queue.then(async () => {
        const glowing = element("figure", drawn(withHeat(pixels, await occlusion(computing, pixels, ranked[0][1])), FACTS.size));
        glowing.append(worded("figcaption", "looked_at"));
        figure.after(glowing);
        look.remove();
      });
    };
    article.append(row, look);
  } catch (error) {
    article.className = "wrong";
    article.append(worded("h2", "no_picture"));
    if (error instanceof PictureError) article.append(worded("p", error.key, { format: error.format }));
    else article.append(element("p", String(error.message || error)));
  }
  return article;
}

// What is new stands on top; of several at once, the first.
function take(files) {
  const together = element("div");
  document.getElementById("answers").prepend(together);
  for (const file of files) queue = queue.then(async () => together.append(await answered(file)));
}

for (const id of ["pictures", "camera"]) {
  document.getElementById(id).onchange = event => {
    take([...event.target.files]);
    event.target.value = ""; // so that the same picture can be chosen again
  };
}
addEventListener("paste", event => take([...event.clipboardData.files]));
const drop = document.querySelector(".drop");
for (const name of ["dragover", "dragleave", "drop"]) {
  addEventListener(name, event => {
    event.preventDefault(); // else the browser would leave the page and show the picture
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") take([...event.dataTransfer.files]);
  });
}
document.querySelectorAll("nav button").forEach(button => { button.onclick = () => speak(button.lang); });
const rule = document.getElementById("rule");
rule.dataset.text = "threshold" in FACTS ? "unsure_rule" : FACTS.limit === null ? "never_unsure" : "only_unlike";
rule.dataset.values = JSON.stringify({ error: FACTS.max_error });
document.getElementById("unlike").hidden = FACTS.limit !== null;
const classes = document.getElementById("classes"), further = FACTS.classes.length - MOST_NAMED;
classes.dataset.text = further > 0 ? "tells_apart_more" : "tells_apart";
classes.dataset.values = JSON.stringify({ names: FACTS.classes.slice(0, MOST_NAMED).join(" · "), n: further });
// The weights lie in a script, once; the file is made of them when somebody wants it.
document.getElementById("model").onclick = async event => {
  const link = event.currentTarget;
  if (link.href.startsWith("blob:")) return;
  event.preventDefault();
  link.href = URL.createObjectURL(new Blob([await unpacked(MODEL)]));
  link.click();
};
speak(language);
session().catch(() => {}); // while the visitor looks for a picture

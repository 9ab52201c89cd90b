// The page: shows photographs one after the other, and hands each decision to the server before it goes on.
"use strict";

const HEIGHT = 76; // pixels of an entry of the list
const KEYS = "123456789abcdefhijklmnopqrstuvwyz"; // of the classes; x leaves out, g groups
const POLL = 3000; // milliseconds
const $ = id => document.getElementById(id);
let FACTS, language, decisions, queue, keys = [], position = 0, side = 0;
let me = localStorage.getItem("imgbench-review-name") || "";
const made = []; // what was decided here, to be taken back
let pending = Promise.resolve(); // decisions are stored one after the other
const seen = {}; // what is known of photographs that were shown
let learning = { version: -1 }, asked = new Set(); // what learns meanwhile, and the photographs of which a label is wanted

const text = (key, values = {}) => FACTS.texts[key][language].replace(/{(\w+)}/g, (_, name) => values[name]);
const percent = value => `${(100 * value).toFixed(1)}\u00a0%`;

// A class that is called by one character has that for its key: of the digits, 3 shall not stand for 2.
function keysOf(classes) {
  const names = classes.map(name => name.toLowerCase());
  const own = names.map((name, label) => (`0${KEYS}`.includes(name) && name.length === 1 && names.indexOf(name) === label ? name : ""));
  const free = [...KEYS].filter(key => !own.includes(key));
  return own.map(key => key || free.shift() || "");
}

function element(name, content = "", className = "") {
  const one = document.createElement(name);
  if (className) one.className = className;
  one.append(content);
  return one;
}

async function ask(path, content) {
  const options = content === undefined ? {} :
    { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error(text("no_answer"));
  }
  const found = await answer.json().catch(() => ({ error: text("no_answer") }));
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function complain(error) {
  $("wrong").textContent = error ? error.message : "";
  $("wrong").hidden = !error;
}

const isSame = item => item[1].startsWith("why_same"); // what has the same pixels is no question of opinion
const items = () => FACTS.queues[queue];
const rows = () => (items()[position] || [[]])[0];

function isDone([numbers]) {
  if (numbers.length === 1) return numbers[0] in decisions.rows;
  const settled = list => list.some(one => numbers.every(number => one.includes(number)));
  const changed = numbers.some(number => number in decisions.rows && decisions.rows[number].decision !== "right");
  return changed || settled(decisions.pairs) || settled(decisions.groups);
}

function speak(chosen) {
  language = chosen;
  document.documentElement.lang = chosen === "zh" ? "zh-CN" : "en";
  document.querySelectorAll("[data-text]").forEach(place => { place.textContent = text(place.dataset.text); });
  document.querySelectorAll("[data-hint]").forEach(place => { place.placeholder = text(place.dataset.hint); place.setAttribute("aria-label", text(place.dataset.hint)); });
  document.querySelectorAll("button.language").forEach(one => one.setAttribute("aria-pressed", one.lang === chosen));
  document.title = document.querySelector("h1").textContent = text(FACTS.names ? "title_label" : "title", { name: FACTS.root });
  const hint = text(FACTS.names ? "name_class" : "search");
  $("search").placeholder = hint;
  $("search").setAttribute("aria-label", hint);
  [$("train"), document.querySelector("#training h2")].forEach(place => { place.textContent = text(FACTS.names ? "train_first" : "train"); });
  $("train_why").textContent = text(FACTS.names ? "train_first_why" : "train_why");
  $("stored").textContent = [text("stored", { place: FACTS.place }), FACTS.folds && text("all_tested")].filter(Boolean).join(" ");
  showQueues();
  show();
  showLearning();
  showTraining(training);
}

function showQueues() {
  const buttons = Object.entries(FACTS.queues).filter(([name, own]) => own.length || name === "suspects" || name === "next").map(([name, own]) => {
    const button = element("button", text(`queue_${name}`));
    const left = name === "next" && learning.left !== undefined ? learning.left : own.filter(item => !isDone(item)).length;
    button.append(element("b", String(left)));
    button.title = text("left_to_do", { n: left });
    button.type = "button";
    button.dataset.queue = name;
    button.setAttribute("aria-pressed", name === queue);
    button.onclick = () => openQueue(name);
    return button;
  });
  $("queues").replaceChildren(...buttons);
  const counts = {};
  Object.values(decisions.rows).forEach(one => { counts[one.by] = (counts[one.by] || 0) + 1; });
  const named = Object.entries(counts).sort().map(([name, number]) => `${name || "?"}\u00a0${number}`);
  $("people").textContent = named.length ? `${text("decided_by")}: ${named.join(" · ")}` : "";
}

function openQueue(name) {
  queue = name;
  const first = items().findIndex(item => !isDone(item));
  showQueues();
  go(Math.max(first, 0));
}

function go(place) {
  position = Math.max(0, Math.min(place, items().length - 1));
  side = Math.max(0, rows().findIndex(number => FACTS.labels[number] !== null)); // a photograph that is not blind
  show();
}

// The list: entries are made for what can be seen of it, however many there are.
function showList() {
  const list = $("list"), own = items();
  $("tall").style.height = `${own.length * HEIGHT}px`;
  const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 3);
  const last = Math.min(own.length, Math.ceil((list.scrollTop + list.clientHeight) / HEIGHT) + 3);
  const entries = [];
  for (let place = first; place < last; place++) {
    const [numbers] = own[place];
    const entry = element("button", "", `entry${numbers.length > 1 ? " two" : ""}${isDone(own[place]) ? " done" : ""}`);
    entry.type = "button";
    entry.tabIndex = -1;
    entry.style.top = `${place * HEIGHT}px`;
    entry.setAttribute("aria-current", place === position);
    entry.setAttribute("aria-label", String(place + 1));
    numbers.forEach(number => {
      const image = document.createElement("img");
      image.alt = "";
      image.src = `small/${number}`;
      image.onerror = () => image.removeAttribute("src");
      entry.append(image);
    });
    entry.onclick = () => { $("list").classList.remove("open"); go(place); };
    entries.push(entry);
  }
  $("tall").replaceChildren(...entries);
}

function bringIntoView() {
  const list = $("list"), top = position * HEIGHT;
  if (top < list.scrollTop || top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top - list.clientHeight / 2;
}

async function show() {
  bringIntoView();
  showList();
  const item = items()[position], numbers = rows();
  $("photos").className = numbers.length > 1 ? "two" : "";
  $("actions").querySelectorAll("button").forEach(button => { button.disabled = !item && button.id !== "back"; });
  $("back").disabled = !made.length;
  $("group").hidden = numbers.length < 2 || isSame(item);
  $("right").hidden = Boolean(item) && isSame(item);
  $("right").firstElementChild.textContent = text(numbers.length > 1 ? "pair_right" : "right");
  const isAsked = numbers.length === 1 && asked.has(numbers[0]);
  $("leave_out").firstElementChild.textContent = text(isAsked ? "none_of_these" : "leave_out");
  $("keys").textContent = text(isAsked ? "keys_label" : "keys");
  if (!item) {
    ["photos", "says", "near", "classes", "decided"].forEach(id => $(id).replaceChildren());
    $("blind").hidden = true;
    $("why").textContent = text(queue === "next" && !learning.left ? "learning_done" : "nothing_here");
    return;
  }
  $("why").textContent = text(FACTS.names && !decisions.classes.length ? "first_class" : item[1], { value: item[2] });
  showDecided();
  showPhotos(numbers);
  await Promise.all(numbers.map(async number => { seen[number] ??= await ask(`about/${number}`); })).catch(complain);
  if (rows() === numbers && numbers.every(number => seen[number])) showFacts(numbers);
  const following = items()[position + 1];
  if (following) following[0].forEach(number => { new Image().src = `photo/${number}`; });
}

function showDecided() {
  const numbers = rows(), item = items()[position];
  const own = numbers.map(number => decisions.rows[number]).filter(Boolean).map(one =>
    text(`decided_${one.decision.replace(" ", "_")}`, { name: decisions.classes[one.label], by: one.by || "?" }));
  if (numbers.length > 1 && !own.length && isDone(item)) {
    const together = decisions.groups.some(one => numbers.every(number => one.includes(number)));
    own.push(text(together ? "decided_group" : "decided_pair"));
  }
  if (items().length && items().every(isDone)) own.push(text("all_done"));
  $("decided").textContent = own.join(" · ");
}

function showPhotos(numbers) {
  const figures = numbers.map((number, place) => {
    const figure = document.createElement("figure"), frame = element("div", "", "frame"), image = document.createElement("img");
    image.alt = "";
    image.src = `photo/${number}`;
    image.onerror = () => frame.replaceChildren(element("p", text("cannot_show"), "faint"));
    frame.append(image);
    figure.append(frame, document.createElement("figcaption"));
    figure.setAttribute("aria-current", place === side);
    if (numbers.length > 1) frame.onclick = () => choose(place);
    return figure;
  });
  $("photos").replaceChildren(...figures);
}

function choose(place) {
  side = place;
  [...$("photos").children].forEach((figure, other) => figure.setAttribute("aria-current", other === side));
  showFacts(rows());
}

const labelOf = number => decisions.rows[number] && decisions.rows[number].label !== undefined
  ? decisions.rows[number].label : seen[number].blind ? null : seen[number].folder;

function showFacts(numbers) {
  numbers.forEach((number, place) => {
    const fact = seen[number], caption = $("photos").children[place].lastElementChild, label = labelOf(number);
    caption.replaceChildren();
    if (label !== null) caption.append(`${text("is_class")}: `, element("strong", decisions.classes[label]));
    const words = [fact.split && text(`split_${fact.split}`), fact.size[0] ? `${fact.size[0]} × ${fact.size[1]}` : "", fact.path];
    if (label !== null && fact.folder !== null && label !== fact.folder) words.push(text("in_folder", { name: decisions.classes[fact.folder] }));
    caption.append(element("span", words.filter(Boolean).join(" · "), "faint"));
  });
  const fact = seen[numbers[side]];
  $("blind").hidden = !numbers.some(number => seen[number].blind);
  $("blind").textContent = [text("blind_reason"), numbers.length === 1 && text("blind_chance")].filter(Boolean).join(" ");
  $("right").hidden = (numbers.length === 1 && fact.blind) || isSame(items()[position]);
  const guess = guessOf(numbers);
  if (fact.asked) $("right").hidden = guess === null;
  if (guess !== null) $("right").firstElementChild.textContent = text("agree", { name: decisions.classes[guess] });
  showClasses();
  $("says").replaceChildren();
  $("near").replaceChildren();
  if (fact.blind || fact.drawn) return;
  $("says").append(element("h3", text("network_says")));
  if (!fact.classes.length) {
    $("says").append(element("p", text("nothing_said"), "faint"));
  } else {
    const table = document.createElement("table");
    fact.classes.forEach(([label, probability]) => {
      const line = table.insertRow(), bar = document.createElement("progress");
      line.insertCell().append(decisions.classes[label]);
      const number = line.insertCell();
      number.className = "number";
      number.append(percent(probability));
      bar.value = probability;
      const share = line.insertCell();
      share.className = "share";
      share.append(bar);
    });
    $("says").append(table);
    if (FACTS.frozen && !fact.asked) $("says").append(element("p", text("unseen"), "faint"));
  }
  if (fact.neighbours.length && numbers.length === 1) {
    const grid = document.createElement("div");
    fact.neighbours.forEach(([number, label]) => {
      const figure = document.createElement("figure"), image = document.createElement("img");
      image.alt = "";
      image.src = `small/${number}`;
      figure.append(image, element("figcaption", decisions.classes[label], label === fact.folder ? "" : "other"));
      grid.append(figure);
    });
    $("near").append(element("h3", text("neighbours")), grid);
  }
}

// What a person may agree with: what the network says of a photograph that has no label yet.
function guessOf(numbers) {
  const fact = numbers.length === 1 && seen[numbers[0]];
  return fact && fact.asked && !(numbers[0] in decisions.rows) && fact.classes.length ? fact.classes[0][0] : null;
}

function showClasses() {
  const number = rows()[side], wanted = $("search").value.trim().toLowerCase();
  if (number === undefined || !seen[number]) return;
  const own = labelOf(number);
  const used = new Set(Object.values(decisions.rows).map(one => one.label)); // a class that was named by mistake is gone
  const found = decisions.classes.map((name, label) => ({ name, label })).filter(({ name, label }) =>
    name.toLowerCase().includes(wanted) && (!FACTS.names || used.has(label)));
  $("classes").replaceChildren(...found.slice(0, 60).map(({ name, label }) => {
    const button = element("button", name);
    button.type = "button";
    button.dataset.label = label;
    if (keys[label]) button.append(element("kbd", keys[label]));
    button.setAttribute("aria-pressed", label === own);
    button.onclick = () => decide("class", label);
    return button;
  }));
  const named = $("search").value.trim();
  if (FACTS.names && named && !found.some(({ name }) => name.toLowerCase() === wanted)) {
    const button = element("button", text("new_class", { name: named }));
    button.type = "button";
    button.id = "new_class";
    button.onclick = () => decide("class", undefined, named);
    $("classes").append(button);
  }
  return found.find(({ name }) => name.toLowerCase() === wanted) || (FACTS.names && named ? { name: named } : found[0]);
}

function decide(decision, label, name) {
  pending = pending.then(async () => {
    const item = items()[position];
    if (!item) return;
    if (isSame(item) && (decision === "right" || decision === "group")) return;
    const both = item[0].length > 1 && (decision === "right" || decision === "group" || (decision === "class" && isSame(item)));
    const numbers = both ? item[0] : [item[0][side]];
    if (decision === "right" && numbers.length === 1 && (seen[numbers[0]] || {}).blind) return;
    if (decision === "right" && asked.has(numbers[0]) && !(numbers[0] in decisions.rows)) {
      label = guessOf(numbers);
      if (label === null) return;
      decision = "class";
    }
    if (FACTS.names && decision === "class") name ??= decisions.classes[label];
    const why = FACTS.texts[item[1]].en.replace("{value}", item[2]);
    decisions = await ask("decide", { rows: numbers, decision, label, name, by: me, why });
    take();
    complain(null);
    made.push({ queue, position, numbers: decision === "right" && both ? [numbers[0]] : numbers });
    $("search").value = "";
    advance();
  }).catch(complain);
}

function advance() {
  showQueues();
  const left = items().map((item, place) => (isDone(item) ? -1 : place)).filter(place => place >= 0);
  go(left.find(place => place > position) ?? left[0] ?? position);
}

function takeBack() {
  pending = pending.then(async () => {
    const last = made[made.length - 1];
    if (!last) return;
    decisions = await ask("decide", { rows: last.numbers, decision: "withdrawn", by: me });
    take();
    complain(null);
    made.pop();
    queue = last.queue;
    showQueues();
    go(last.position);
  }).catch(complain);
}

document.addEventListener("keydown", event => {
  if (!FACTS || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target === $("search")) {
    if (event.key === "Escape") $("search").blur();
    if (event.key === "Enter") {
      const first = $("search").value.trim() && showClasses();
      $("search").blur();
      if (first) decide("class", first.label, first.label === undefined ? first.name : undefined);
    }
    return;
  }
  const label = keys.indexOf(event.key.toLowerCase());
  const acts = {
    " ": () => decide("right"), Enter: () => decide("right"), x: () => decide("left out"),
    g: () => rows().length > 1 && decide("group"), Backspace: takeBack, ArrowLeft: () => go(position - 1),
    ArrowRight: () => go(position + 1), "/": () => $("search").focus(),
    ArrowUp: () => rows().length > 1 && choose(0), ArrowDown: () => rows().length > 1 && choose(1),
  };
  const act = acts[event.key] || acts[event.key.toLowerCase()] || (label >= 0 && (() => decide("class", label)));
  if (event.repeat && !event.key.startsWith("Arrow")) return; // of a key that is held down, one photograph was looked at
  if (!act || (event.target.tagName === "BUTTON" && [" ", "Enter"].includes(event.key))) return;
  event.preventDefault();
  act();
});

// Training again.
let training = { status: "idle" };

function changeOf(name, change) {
  const points = value => `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(100 * value).toFixed(1)}`;
  const plain = value => `${value < 0 ? "−" : ""}${Math.abs(100 * value).toFixed(1)}`;
  const { first, second, difference } = change, part = element("div", element("h3", name));
  part.append(element("strong", text("change", {
    first: (100 * first.value).toFixed(1), second: (100 * second.value).toFixed(1),
    difference: points(difference.value), low: plain(difference.low), high: plain(difference.high),
  })));
  const p = change.p < 0.001 ? "< 0.001" : change.p.toPrecision(2);
  part.append(element("p", text(change.distinguishable ? "told_apart" : "not_told_apart", { p, n: difference.n })));
  return part;
}

function showTraining(state) {
  training = state;
  const ways = FACTS.names ? [["train_first", false]] : FACTS.frozen ? [["train_head", false], ["train_tuned", true]] : [["train_whole", true]];
  $("ways").replaceChildren(...(FACTS.run || FACTS.names ? ways : []).map(([key, whole]) => {
    const button = element("button", text(key));
    button.type = "button";
    button.dataset.whole = whole;
    button.disabled = state.status === "running";
    button.onclick = () => ask("train", { whole }).then(watch).catch(error => showTraining({ status: "failed", message: error.message }));
    return button;
  }));
  const said = [];
  if (FACTS.names) said.push(element("code", `imgbench train ${FACTS.command}`), element("p", text("train_first_note"), "faint"));
  else if (!FACTS.run) said.push(element("p", text("train_none")));
  if (state.status === "running") said.push(element("p", text(state.epochs ? "running_epochs" : "running", state)));
  if (state.epochs) said.push(Object.assign(document.createElement("progress"), { max: state.epochs, value: state.epoch }));
  if (state.status === "failed") said.push(element("p", text("failed", state)));
  if (state.status === "done" && state.accuracy) {
    const shown = (key, number) => text(key, { ...number, ...Object.fromEntries(["value", "low", "high"].map(name => [name, (100 * number[name]).toFixed(1)])) });
    if (state.accuracy_drawn) said.push(element("strong", shown("drawn_accuracy", state.accuracy_drawn)));
    said.push(element(state.accuracy_drawn ? "p" : "strong", shown("first_accuracy", state.accuracy)), element("p", text("new_run", state), "faint"));
  } else if (state.status === "done") {
    said.push(changeOf(text(state.before ? "with_labels_now" : "accuracy"), state.after));
    if (state.before) said.push(changeOf(text("with_labels_before"), state.before));
    said.push(element("p", text("new_run", state), "faint"));
  }
  $("outcome").replaceChildren(...said);
}

function watch(state) {
  showTraining(state);
  if (state.status === "running") setTimeout(() => ask("training").then(watch).catch(() => setTimeout(() => watch(training), POLL)), 700);
}

// What learns meanwhile.
function showLearning() {
  const state = learning, said = [];
  $("learning").hidden = !asked.size;
  if (!asked.size || !state.status) return;
  const waits = state.status === "waiting" && state.labels >= state.first ? "one" : state.status;
  said.push(text(`learning_${waits}`, state));
  if (state.changed !== null && state.changed !== undefined) said.push(text("learning_changed", { percent: (100 * state.changed).toFixed(1) }));
  if (state.settled) said.push(text("learning_settled"));
  $("learning").className = state.settled ? "settled" : "";
  $("learning").textContent = said.join(" ");
}

const nextOf = state => state.next.map(number => [[number], state.drawn.includes(number) ? "why_drawn" : "why_next", ""]);

function learnt(found) {
  const isNew = found.version !== learning.version;
  learning = found;
  showLearning();
  if (!isNew || !FACTS.queues.next) return;
  asked.forEach(number => { if (!rows().includes(number)) delete seen[number]; }); // the network says something else now
  const own = queue === "next" ? FACTS.queues.next.slice(0, position + 1) : FACTS.queues.next.filter(isDone);
  const kept = new Set(own.map(([[number]]) => number));
  FACTS.queues.next = [...own, ...nextOf(found).filter(([[number]]) => !kept.has(number))];
  showQueues();
  showList();
  const current = rows();
  if (queue !== "next" || !current.length) return;
  if (isDone(items()[position])) advance();
  else if (asked.has(current[0])) {
    ask(`about/${current[0]}`).then(fact => {
      seen[current[0]] = fact;
      if (rows()[0] === current[0]) showFacts(current);
    }).catch(() => {});
  }
}

const followLearning = () => asked.size && ask("proposals").then(learnt).catch(() => {});

// Where people name the classes, others may have come.
function take() {
  keys = keysOf(decisions.classes);
  if (asked.size) setTimeout(followLearning, 400);
}

async function follow() {
  await followLearning();
  try {
    const found = await ask(`decisions?version=${decisions.version}`);
    if (found && found.version > decisions.version) {
      decisions = found;
      keys = keysOf(decisions.classes);
      showQueues();
      showList();
      if (rows().length && seen[rows()[0]]) { showDecided(); showFacts(rows()); }
    }
  } catch { /* said when something is decided */ }
  setTimeout(follow, POLL);
}

function named() {
  const name = $("name").value.trim();
  if (!name) return;
  me = name;
  localStorage.setItem("imgbench-review-name", me);
  $("ask").close();
  if (FACTS.names && !decisions.classes.length) $("search").focus(); // the first class is to be named
}

async function begin() {
  FACTS = await (await fetch("start")).json();
  decisions = FACTS.decisions;
  keys = keysOf(decisions.classes);
  asked = new Set(FACTS.asked);
  if (asked.size) {
    learning = await ask("proposals");
    FACTS.queues.next = nextOf(learning);
  }
  const own = FACTS.language || ((navigator.language || "").toLowerCase().startsWith("zh") ? "zh" : "en");
  queue = Object.keys(FACTS.queues).find(name => FACTS.queues[name].some(item => !isDone(item))) || "suspects";
  speak(own);
  openQueue(queue);
  for (const button of document.querySelectorAll("button.language")) button.onclick = () => speak(button.lang);
  $("right").onclick = () => decide("right");
  $("leave_out").onclick = () => decide("left out");
  $("group").onclick = () => decide("group");
  $("back").onclick = takeBack;
  $("previous").onclick = () => go(position - 1);
  $("next").onclick = () => go(position + 1);
  $("list").onscroll = showList;
  $("search").oninput = showClasses;
  $("show_list").onclick = () => { $("list").classList.toggle("open"); bringIntoView(); showList(); };
  $("train").onclick = () => { $("training").showModal(); ask("training").then(watch).catch(complain); };
  $("close").onclick = () => $("training").close();
  $("begin").onclick = named;
  $("name").onkeydown = event => {
    if (event.key !== "Enter") return;
    event.stopPropagation(); // it is no answer to the photograph behind
    named();
  };
  $("ask").oncancel = event => { if (!me) event.preventDefault(); };
  addEventListener("resize", showList);
  $("search").hidden = !FACTS.names && decisions.classes.length <= 9;
  if (!me) $("ask").showModal();
  setTimeout(follow, POLL);
}

begin();

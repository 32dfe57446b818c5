/**
 * live.js: the page that ranks candidates with a model inside it, and verifies, draws and measures models.
 *
 * web/live.py puts it behind the code of ondevice.js, signatures.js and rows.js, with the model, the
 * engine and the catalogue, or rows drawn in its place, as the JSON of #data. `ondevice bench --serve` takes the reports.
 */

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const bytesOfText = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

const OBSERVATION_MS = 5; // of one observation, so that a clock rounded to 0.1 ms errs by 2 % at most
const OBSERVATIONS = 40;
const TYPED_MS = 4; // of the time shown while somebody types
const ROWS = [1, 128];

function add(parent, tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  parent.append(element);
  return element;
}

function sizeOf(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function timeOf(microseconds) {
  return microseconds < 1000 ? `${microseconds.toPrecision(3)} µs` : `${(microseconds / 1000).toPrecision(3)} ms`;
}

/** Microseconds of a call: repeated until the clock can tell. */
function timed(call, least = OBSERVATION_MS) {
  let repeats = 1;
  for (;;) {
    const before = performance.now();
    for (let i = 0; i < repeats; i++) call();
    const took = performance.now() - before;
    if (took >= least) return { us: (1000 * took) / repeats, repeats };
    repeats = took > 0 ? Math.min(repeats * 10, Math.ceil((1.3 * least * repeats) / took)) : repeats * 10;
  }
}

// The ranking

const wasm = bytesOfText(data.engine);
const model = await load(bytesOfText(data.model), { wasm }).catch((error) => {
  at("failed").textContent = `This browser cannot run the model: ${error.message}`;
  at("failed").hidden = false;
  throw error;
});
const rows = new Rows(model, data.catalogue, data.drawn);
const MOST_SCORES = 50; // of a row, to choose from
let { users, items } = rows;
let context = {}; // by name: what is shown, and the input of the model

function takeUser(number) {
  const { values } = users[number];
  context = Object.fromEntries(
    Object.entries(values).map(([name, value]) => [name, { text: rows.textOf(name, value), hint: rows.hintOf(name, value), input: rows.input(name, [value]) }]),
  );
}

function shown() {
  const wanted = at("filter").value.trim().toLowerCase();
  return items.filter((item) => item.title.toLowerCase().includes(wanted));
}

/** The scores to rank by: of an output of several values a row, one of them. */
function chosen(scores, count) {
  const outputs = scores instanceof Float32Array ? { [model.outputs[0]]: scores } : scores;
  const columns = Object.entries(outputs).flatMap(([name, values]) => {
    const size = values.length / count;
    return Array.from({ length: size }, (_, i) => ({ name, values, size, i }));
  });
  const select = at("output");
  if (!select.children.length) {
    columns.slice(0, MOST_SCORES).forEach(({ name, size, i }, place) =>
      add(select, "option", size > 1 ? `${name}[${i}]` : name, { value: String(place) }),
    );
    const differs = ({ values, size, i }) => values.some((value, place) => place % size === i && value !== values[i]);
    const first = [columns.findIndex((column) => column.size === 1 && differs(column)), columns.findIndex(differs)].find((place) => place >= 0);
    select.value = String(first < MOST_SCORES ? first : 0);
  }
  at("output-row").hidden = columns.length < 2;
  const { name, values, size, i } = columns[Number(select.value || 0)];
  return { name, scores: Array.from({ length: count }, (_, row) => values[row * size + i]) };
}

function showRanking(candidates, scores, output) {
  const order = scores.map((score, i) => [score, i]).sort((a, b) => (Number.isNaN(a[0]) ? 1 : Number.isNaN(b[0]) ? -1 : b[0] - a[0]));
  const percent = rows.isProbability(output);
  const best = order[0][0];
  const least = percent ? 0 : order[order.length - 1][0];
  order.forEach(([score, i], place) => {
    const line = add(at("list"), "li");
    add(line, "span", `${place + 1}.`);
    add(line, "span", candidates[i].title);
    add(line, "span", percent ? `${(100 * score).toFixed(1)} %` : score.toPrecision(4));
    add(line, "i").style.width = `${(100 * (score - least)) / Math.max(best - least, 1e-9)}%`;
  });
  at("status").textContent = `Best: ${candidates[order[0][1]].title}, of ${candidates.length}.`;
}

function rank() {
  const candidates = shown();
  at("list").replaceChildren();
  at("count").textContent = String(candidates.length);
  if (!candidates.length) {
    at("status").textContent = "No candidate has that in its name.";
    return;
  }
  try {
    const wrong = Object.values(context).find((item) => item.error);
    if (wrong) throw wrong.error;
    const shared = Object.fromEntries(Object.entries(context).map(([name, { input }]) => [name, input]));
    const names = Object.keys(candidates[0].values);
    const varied = Object.fromEntries(names.map((name) => [name, rows.input(name, candidates.map((item) => item.values[name]))]));
    const { name, scores } = chosen(model.rank(shared, varied), candidates.length);
    at("latency").textContent = timeOf(timed(() => model.rank(shared, varied), TYPED_MS).us);
    showRanking(candidates, scores, name);
  } catch (error) {
    if (!(error instanceof OnDeviceError)) throw error;
    at("status").textContent = error.message;
  }
}

function contextInput(row, name) {
  const input = add(row, "input", "", { id: `value-${name}`, autocomplete: "off" });
  input.value = context[name].text;
  const drawn = context[name];
  input.placeholder = drawn.hint;
  input.addEventListener("input", () => {
    context[name] = { ...drawn, text: input.value };
    try {
      if (input.value || !drawn.hint) context[name].input = rows.typed(name, input.value);
    } catch (error) {
      context[name].error = error;
    }
    const { error } = context[name];
    input.classList.toggle("wrong", Boolean(error));
    input.setAttribute("aria-invalid", String(Boolean(error)));
    rank();
  });
}

/** A box that says whether an input of drawn rows differs between candidates. */
function variedBox(row, name) {
  const label = add(row, "label", "", { class: "varied" });
  const box = add(label, "input", "", { type: "checkbox" });
  label.append(" differs");
  box.setAttribute("aria-label", `${name} differs between candidates`);
  box.checked = rows.varied.has(name);
  box.disabled = box.checked && rows.varied.size === 1; // something must differ
  box.addEventListener("change", () => {
    rows.varied[box.checked ? "add" : "delete"](name);
    ({ users, items } = rows);
    takeUser(Number(at("user").value));
    writeContext();
    at("context").querySelector(`[data-name="${CSS.escape(name)}"] [type=checkbox]`).focus();
    rank();
  });
}

function writeContext() {
  const place = at("context");
  place.replaceChildren();
  place.classList.toggle("drawn", rows.isDrawn);
  for (const name of rows.isDrawn ? rows.names : Object.keys(context)) {
    const row = add(place, "p", "", { "data-name": name });
    if (name in context) {
      add(row, "label", name, { for: `value-${name}` });
      contextInput(row, name);
    } else {
      add(row, "span", name);
      add(row, "span", "", { class: "note" });
    }
    if (rows.isDrawn) variedBox(row, name);
  }
}

users.forEach((user, i) => add(at("user"), "option", user.title, { value: String(i) }));
at("user").addEventListener("change", () => {
  takeUser(Number(at("user").value));
  writeContext();
  rank();
});
at("filter").addEventListener("input", rank);
at("output").addEventListener("change", rank);

// The tables

function drawTables(tables, place) {
  place.replaceChildren();
  const largest = Math.max(...tables.map((table) => table.bytes), 1);
  for (const table of [...tables].sort((a, b) => b.bytes - a.bytes)) {
    const row = add(place, "div", "", { class: "bar" });
    add(row, "span", table.name.replace(/^embeddings\.|\.weight$/g, ""));
    const right = add(row, "div");
    const track = add(right, "div", "", { class: "track" });
    add(track, "div", "", { class: "fill" }).style.width = `${(100 * table.bytes) / largest}%`;
    const whole = 4 * table.rows * table.dim;
    add(right, "small", `${sizeOf(table.bytes)}: ${table.rows.toLocaleString("en")} rows of ${table.dim}; as float32 ${sizeOf(whole)}, ${(whole / Math.max(table.bytes, 1)).toPrecision(3)} times as much`);
  }
}

/** Mean kept width of rows by how often training read them: one group of bars a table. */
function drawWidths(widths, place) {
  const cut = widths.filter((table) => Math.min(...table.mean) < table.dim);
  if (!cut.length) return;
  add(place, "h3", "Kept dimensions, from the rows read most to those read least");
  for (const table of cut) {
    const row = add(place, "div", "", { class: "bar" });
    add(row, "span", table.name.replace(/^embeddings\.|\.weight$/g, ""));
    const ns = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(ns, "svg");
    svg.setAttribute("viewBox", "0 0 300 44");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    const text = table.mean.map((mean) => mean.toFixed(1)).join(", ");
    svg.setAttribute("aria-label", `${table.name}: kept of ${table.dim} dimensions: ${text}`);
    table.mean.forEach((mean, i) => {
      const bar = document.createElementNS(ns, "rect");
      const step = 300 / table.mean.length;
      const height = (40 * mean) / table.dim;
      for (const [name, value] of Object.entries({ x: i * step + 1, y: 42 - height, width: step - 2, height, rx: 2 }))
        bar.setAttribute(name, String(value));
      bar.setAttribute("style", "fill:var(--c0)");
      const title = document.createElementNS(ns, "title");
      title.textContent = `${mean.toFixed(1)} of ${table.dim}`;
      bar.append(title);
      svg.append(bar);
    });
    row.append(svg);
  }
}

// Measuring

function quantile(sorted, share) {
  const place = share * (sorted.length - 1);
  const low = Math.floor(place);
  return sorted[low] + (place - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}

function spread(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const sd = values.length < 2 ? 0 : Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (values.length - 1));
  const of = (share) => quantile(sorted, share);
  return { count: values.length, mean, sd, min: of(0), p50: of(0.5), p90: of(0.9), p95: of(0.95), p99: of(0.99), max: of(1) };
}

/** Requests of random IDs from the file's own limits. */
function requestOf(opened, rows) {
  const described = new Map(opened.info.inputs.map((item) => [item.name, item]));
  return Object.fromEntries(
    opened.inputs.map((input) => {
      const { id_limit: limit, id_low: low } = described.get(input.name) ?? {};
      const size = rows * input.size;
      const one = (i) => {
        const least = Number(Array.isArray(low) ? low[i % input.size] : (low ?? 0));
        const most = Number((Array.isArray(limit) ? limit[i % input.size] : limit) ?? 2 ** 31);
        return least + Math.floor(Math.random() * (Math.min(most, 2 ** 31) - least));
      };
      const flatValues = Array.from({ length: size }, (_, i) => (input.dtype === "float32" ? Math.random() : one(i)));
      if (!input.shape.length) return [input.name, flatValues];
      const nested = (values, shape) =>
        shape.length === 1 ? values : Array.from({ length: shape[0] }, (_, i) => nested(values.slice((i * values.length) / shape[0], ((i + 1) * values.length) / shape[0]), shape.slice(1)));
      return [input.name, nested(flatValues, [rows, ...input.shape])];
    }),
  );
}

const pause = () => new Promise((done) => setTimeout(done, 0));

async function latencies(opened, say) {
  const results = [];
  for (const rows of ROWS) {
    const request = requestOf(opened, rows);
    timed(() => opened.predict(request), 50); // until the engine's code is compiled at its best
    const times = [];
    let requests = 0;
    for (let i = 0; i < OBSERVATIONS; i++) {
      const { us, repeats } = timed(() => opened.predict(request));
      times.push(us);
      requests += repeats;
      if (i % 8 === 0) {
        say(`batch ${rows}: ${i} of ${OBSERVATIONS}`);
        await pause();
      }
    }
    results.push({ rows, times, requests });
  }
  return results;
}

/** A text as reports take it: one printable line. */
const printable = (text) => text.replace(/\p{C}|\p{Zl}|\p{Zp}|(?! )\p{Zs}/gu, "?").slice(0, 200) || "?";

/** SHA-256 without Web Cryptography, which pages served without TLS do not have. */
async function sha256(bytes) {
  return (await Verifier.open(bytesOfText(data.verifier))).sha256(bytes);
}

function reportOf(opened, file, measured) {
  const nothing = { clocks: [], temperatures: [], throttled: [], load: null };
  const subject = { model: 0, engine: "native", runtime: `native ${opened.kernels}`, threads: 1, conditions: { before: nothing, after: nothing, affinity: null } };
  return {
    format: "ondevice-bench",
    version: 1,
    created: new Date().toISOString().replace(/\.\d+Z$/, "Z"),
    tool: `ondevice ${data.version} (web)`,
    interrupted: false,
    device: {
      name: null,
      cpu: "unknown: browsers do not say",
      architecture: "wasm32",
      cores: navigator.hardwareConcurrency || 1,
      memory_bytes: null,
      system: navigator.userAgent,
      kernel: "unknown",
      emulated: null,
      versions: { ondevice: data.version },
    },
    models: [{ name: file.name, files: [{ name: file.name, bytes: file.bytes, sha256: file.sha256 }], accuracy: {} }],
    starts: [],
    memories: [],
    latencies: measured.map(({ rows, times, requests }) => {
      const sorted = [...times].sort((a, b) => a - b);
      return {
        ...subject,
        call: "predict",
        rows,
        context: [],
        gap_ms: 0,
        workers: 1,
        worker_kind: "thread",
        requests,
        latency_us: spread(times),
        percentiles_us: Array.from({ length: 101 }, (_, i) => quantile(sorted, i / 100)),
        bursts_us: [times],
        rows_per_s: spread(times.map((us) => (1e6 * rows) / us)),
        cpu_us: null,
        energy_uj: null,
        energy_meter: null,
        overhead_us: null,
      };
    }),
    profiles: [],
  };
}

const token = /^https?:$/.test(location.protocol) ? new URLSearchParams(location.search).get("token") : null;

/** Send a report to the server of this page: what came of it, as a sentence. */
async function send(text) {
  try {
    const answer = await fetch("report", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Ondevice-Token": token },
      body: text,
    });
    return answer.ok ? `Sent; the computer has it as ${(await answer.json()).file}.` : `Not sent: ${await answer.text()}`;
  } catch (error) {
    return `Not sent: ${error.message}`;
  }
}

/** A link that downloads a report, and, where the page is served by `ondevice bench`, a button that sends it. */
function offer(text, name, place) {
  const row = add(place, "p");
  const href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  add(row, "a", "Download the report", { href, download: `${name}.bench.json` });
  if (!token) return;
  row.append(" ");
  const button = add(row, "button", `Send the report to ${location.host}`, { type: "button" });
  const said = add(place, "p", "", { class: "note", role: "status" });
  button.addEventListener("click", async () => {
    button.disabled = true;
    said.textContent = await send(text);
    button.disabled = said.textContent.startsWith("Sent");
  });
}

async function measure(opened, file, place) {
  const measured = await latencies(opened, (text) => (place.textContent = text));
  const name = printable(file.name);
  const report = reportOf(opened, { name, bytes: file.data.length, sha256: await sha256(file.data) }, measured);
  place.textContent = "";
  const table = add(add(place, "div", "", { class: "scroll" }), "table", "", { "aria-label": `Latency of ${file.name}` });
  const head = add(table, "tr");
  for (const text of ["request", "p50", "p95", "rows a second"]) add(head, "th", text, { scope: "col" });
  for (const { rows, times } of measured) {
    const line = add(table, "tr");
    const { p50, p95 } = spread(times);
    for (const text of [`${rows} row${rows > 1 ? "s" : ""}`, timeOf(p50), timeOf(p95), Math.round((1e6 * rows) / p50).toLocaleString("en")]) add(line, "td", text);
  }
  offer(JSON.stringify(report, null, 1), name, place);
}

let queue = Promise.resolve(); // of measurements, which would slow one another

/** Do something that measures when nothing else does; what it throws is shown at `place`. */
function inTurn(place, action) {
  queue = queue.then(action).catch((error) => {
    // memory that ended, in the browser's words
    place.textContent = error instanceof OnDeviceError || error instanceof RangeError ? error.message : `The page failed: ${error.message}`;
    place.classList.add("warning");
    if (!(error instanceof OnDeviceError)) console.error(error);
  });
}

at("measure").addEventListener("click", () => {
  const place = at("figures");
  at("measure").disabled = true;
  place.classList.remove("warning");
  inTurn(place, () => measure(model, { name: data.name, data: bytesOfText(data.model) }, place).finally(() => (at("measure").disabled = false)));
});

// Another model

async function open(file, place) {
  place.replaceChildren();
  place.classList.remove("warning");
  add(place, "p", `Reading ${file.name} ...`);
  let opened;
  try {
    const bytes = new Uint8Array(await file.arrayBuffer());
    opened = await load(bytes, { wasm });
    const checked = opened.verify();
    const said = checked.rows
      ? `${checked.rows} test rows ${checked.passed ? "agree" : "DIFFER"}: largest difference ${checked.difference.toPrecision(2)}, tolerance ${checked.tolerance}`
      : "the file has no test vectors";
    place.replaceChildren();
    add(place, "p", `${file.name}: ${sizeOf(bytes.length)}; ${said}.`);
    const inputs = opened.inputs.map((input) => `${input.name}${input.shape.length ? `[${input.shape}]` : ""}${input.dtype === "float32" ? " (float32)" : ""}`);
    add(place, "p", `Inputs: ${inputs.join(", ")}. Outputs: ${opened.outputs.join(", ")}.`);
    drawTables(opened.tables, add(place, "div"));
    if (checked.passed || !checked.rows) await measure(opened, { name: file.name, data: bytes }, add(place, "div"));
  } catch (error) {
    if (!(error instanceof OnDeviceError)) throw error;
    place.replaceChildren();
    add(place, "p", `${file.name}: ${error.message}`, { class: "warning" });
  } finally {
    opened?.close();
  }
}

const openInTurn = (file) => file && inTurn(at("report"), () => open(file, at("report")));
const drop = at("drop");
drop.addEventListener("click", () => at("file").click());
drop.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" && event.key !== " ") return;
  event.preventDefault();
  at("file").click();
});
at("file").addEventListener("change", () => openInTurn(at("file").files[0]));
for (const kind of ["dragover", "dragleave", "drop"])
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") openInTurn(event.dataTransfer.files[0]);
  });

// Start

at("bytes").textContent = sizeOf(bytesOfText(data.model).length);
at("table-bytes").textContent = sizeOf(model.tables.reduce((sum, table) => sum + table.bytes, 0));
at("engine").textContent = model.kernels;
drawTables(model.tables, at("bars"));
drawWidths(data.widths, at("widths"));
at("drawn").hidden = !rows.isDrawn;
if (rows.isDrawn) {
  at("title").textContent = `${data.name}, on this device`;
  document.querySelector(".figures").after(at("measure").closest(".card"));
}
takeUser(0);
writeContext();
rank();
setTimeout(rank, 200); // once the engine's code is compiled at its best

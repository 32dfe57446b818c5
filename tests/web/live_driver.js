/* live_driver.js: uses the live page in a frame as a person would, and posts what it shows. */
const frame = document.getElementById("page");
const width = Number(new URLSearchParams(location.search).get("width"));
frame.style.width = `${width}px`;

const seen = { errors: [] };
const post = () => fetch("answers", { method: "POST", body: JSON.stringify(seen) });

async function until(what, done, seconds = 300) {
  const end = performance.now() + 1000 * seconds;
  while (!done()) {
    if (performance.now() > end) throw new Error(`waited in vain for ${what}`);
    await new Promise((next) => setTimeout(next, 20));
  }
}

async function used() {
  await until("the page", () => frame.contentDocument?.getElementById("list")?.children.length);
  const page = frame.contentDocument;
  const at = (id) => page.getElementById(id);
  const list = () => Array.from(at("list").children, (line) => Array.from(line.querySelectorAll("span"), (x) => x.textContent));
  const write = (element, value, kind = "input") => {
    element.value = value;
    element.dispatchEvent(new Event(kind));
  };
  seen.figures = ["latency", "count", "bytes", "table-bytes", "engine"].map((id) => at(id).textContent);
  seen.first = list();
  write(at("user"), "3", "change");
  seen.otherUser = list();
  const field = at("context").querySelector("input");
  write(field, "12345");
  seen.typed = list();
  write(field, "no number");
  seen.wrong = [field.getAttribute("aria-invalid"), at("status").textContent];
  write(at("user"), "0", "change");
  write(at("filter"), "item 1");
  seen.filtered = list();
  write(at("filter"), "nothing is called so");
  seen.none = at("status").textContent;
  write(at("filter"), "");
  at("measure").click();
  const link = () => at("figures").querySelector("a");
  await until("the report", link);
  seen.report = await (await fetch(link().href)).json();
  seen.buttons = at("figures").querySelectorAll("button").length;
  for (const [name, source] of [["model", "other.odm"], ["damaged", "damaged.odm"]]) {
    const bytes = await (await fetch(source)).arrayBuffer();
    const files = new DataTransfer();
    files.items.add(new File([bytes], source));
    at("file").files = files.files;
    at("file").dispatchEvent(new Event("change"));
    await until(name, () => at("report").querySelector(name === "model" ? "a" : ".warning"));
    seen[name] = at("report").textContent;
  }
  seen.width = page.documentElement.scrollWidth;
  const labels = Array.from(page.querySelectorAll("input:not([type=file]), select"), (x) => x.labels.length);
  seen.unlabelled = labels.filter((count) => !count).length;
  seen.requests = frame.contentWindow.performance.getEntriesByType("resource").length;
}

await used().catch((error) => seen.errors.push(String(error.stack ?? error)));
await post();

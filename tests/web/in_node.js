/* in_node.js: node in_node.js ONDEVICE_JS < TASKS (a JSON list); writes the list of answers. */
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

import { does } from "./tasks.js";

const api = await import(pathToFileURL(process.argv[2]));
const perform = does(api, async (path) => new Uint8Array(await readFile(path)));
let text = "";
for await (const part of process.stdin) text += part;
const answers = [];
for (const task of JSON.parse(text)) answers.push(await perform[task.do](task));
process.stdout.write(JSON.stringify(answers));

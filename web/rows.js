/**
 * rows.js: users and candidates of the live page, from a catalogue or drawn from the model's file, and
 * their values as inputs of the model.
 */

import { InputError } from "./sources.js";

const USERS = 12; // to choose from, of the drawn rows
const TITLE_VALUES = 4; // in the title of a drawn candidate
const LIST_VALUES = 4; // of a list in a title

/** What a title says of a value: integers of 64 bits as their hexadecimal digits, lists cut. */
function shortText(value) {
  if (Array.isArray(value))
    return `[${value.slice(0, LIST_VALUES).map(shortText).join(", ")}${value.length > LIST_VALUES ? ", …" : ""}]`;
  if (typeof value === "number" && !Number.isInteger(value)) return value.toPrecision(3);
  return /^-?\d{17,}$/.test(value) ? `0x${BigInt.asUintN(64, BigInt(value)).toString(16)}` : String(value);
}

function numberOf(name, dtype, text) {
  const said = text.trim();
  if (dtype === "int64" ? /^[+-]?\d+$/.test(said) : said && Number.isFinite(Number(said)))
    return dtype === "int64" ? BigInt(said.replace(/^\+/, "")) : Number(said);
  throw new InputError(`input '${name}': expected ${dtype === "int64" ? "an integer" : "a number"}, got '${said}'`);
}

/** Users and candidates of a page: `catalogue` names them, else they are `drawn` rows of all inputs. */
export class Rows {
  #model;
  #catalogue;
  #drawn;
  #raw; // names of the inputs whose values are raw
  #inputs; // by name
  #fields; // of the file's description, by name

  /** Names of the inputs that differ between candidates; of a catalogue it cannot be changed. */
  varied;

  constructor(model, catalogue, drawn) {
    this.#model = model;
    this.#catalogue = catalogue;
    this.#drawn = drawn;
    const { inputs, features } = model.info;
    this.#fields = new Map(features.map((field) => [field.name, field]));
    const free = new Map(inputs.map((item) => [item.name, item.shape.slice(1).some((axis) => typeof axis === "string")]));
    this.#inputs = new Map(model.inputs.map((item) => [item.name, { ...item, free: free.get(item.name) }]));
    this.#raw = new Set(catalogue ? this.#inputs.keys() : drawn.raw);
    this.varied = new Set(catalogue ? Object.keys(catalogue.items[0].values) : drawn.varied);
  }

  get isDrawn() {
    return !this.#catalogue;
  }

  /** Whether an output is a probability, as far as is known. */
  isProbability(output) {
    return !this.isDrawn || this.#drawn.probabilities.includes(output);
  }

  /** Names of all inputs. */
  get names() {
    return [...this.#inputs.keys()];
  }

  get #shared() {
    return this.names.filter((name) => !this.varied.has(name));
  }

  get users() {
    if (this.#catalogue) return this.#catalogue.users;
    return this.#drawn.rows.slice(0, USERS).map((row, i) => ({
      title: `User ${i + 1}, drawn`,
      values: Object.fromEntries(this.#shared.map((name) => [name, row[name]])),
    }));
  }

  /** The candidates; of drawn ones each once. */
  get items() {
    if (this.#catalogue) return this.#catalogue.items;
    const names = this.names.filter((name) => this.varied.has(name));
    const items = new Map();
    for (const row of this.#drawn.rows) {
      const values = Object.fromEntries(names.map((name) => [name, row[name]]));
      const said = names.slice(0, TITLE_VALUES).map((name) => `${name} ${this.#isHidden(name) ? "#" : ""}${shortText(row[name])}`);
      const key = JSON.stringify(values);
      if (!items.has(key)) items.set(key, { title: said.join(", ") + (names.length > TITLE_VALUES ? ", …" : ""), values });
    }
    return [...items.values()];
  }

  /** A value as somebody may type it; empty for an ID where texts are read as raw values. */
  textOf(name, value) {
    if (value === null || this.#isHidden(name)) return "";
    return Array.isArray(value) ? value.flat(Infinity).join(" ") : String(value);
  }

  /** What stands in an empty box: the ID that counts while nothing is typed. */
  hintOf(name, value) {
    return this.#isHidden(name) ? `ID ${shortText(value)}` : "";
  }

  #isHidden(name) {
    return !this.#raw.has(name) && this.#model.features.includes(name);
  }

  /** An input's values: IDs or numbers, in the form that the engine takes fastest. */
  input(name, values) {
    const { dtype, free } = this.#inputs.get(name);
    if (this.#raw.has(name)) {
      const ids = this.#model.encode(name, values);
      return free ? cut(ids, ids.length / values.length) : ids;
    }
    if (free) return values.map(exact);
    const flat = values.flat(Infinity);
    return dtype === "int64" ? BigInt64Array.from(flat, BigInt) : Float32Array.from(flat);
  }

  /** A raw value from a text, which the engine reads by itself where the file says how cells are read. */
  #cell(name, text) {
    const { kind, length, cells } = this.#fields.get(name);
    if (cells) return text;
    const value = (item) => (kind === "string" ? item : numberOf(name, kind === "integer" ? "int64" : "float32", item));
    return length ? parts(text).map(value) : value(text);
  }

  /** An input of one row, from a text: a cell of the log where the file says how to read it, else numbers. */
  typed(name, text) {
    const { dtype, shape, size, free } = this.#inputs.get(name);
    if (this.#model.features.includes(name)) {
      const ids = this.#model.encode(name, [this.#cell(name, text)]);
      return free ? [Array.from(ids)] : ids;
    }
    const texts = shape.length ? parts(text) : [text];
    const step = free ? shape.slice(1).reduce((a, b) => a * b, 1) : size;
    if (!texts.length || texts.length % step || (!free && texts.length !== step))
      throw new InputError(`input '${name}': expected ${step} values${free ? ", or several times as many" : ""}, got ${texts.length}`);
    const Kind = dtype === "int64" ? BigInt64Array : Float32Array;
    const flat = Kind.from(texts, (item) => numberOf(name, dtype, item));
    if (!free) return flat;
    return [shape.slice(1).reduceRight((parts, axis) => cut(parts, axis), Array.from(flat))];
  }
}

/** The values of a list that somebody typed. */
function parts(text) {
  return text.split(/[\s,;|]+/).filter(Boolean);
}

/** Values as the engine takes them in nested arrays: integers that came as texts exactly. */
function exact(value) {
  if (Array.isArray(value)) return value.map(exact);
  return typeof value === "string" ? BigInt(value) : value;
}

/** An array in pieces of `step` elements. */
function cut(array, step) {
  return Array.from({ length: array.length / step }, (_, i) => Array.from(array.slice(i * step, (i + 1) * step)));
}

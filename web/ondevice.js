/**
 * ondevice in browsers and Node: scores .odm models with the C engine, compiled to WebAssembly.
 *
 *   import { load } from "ondevice-ctr";
 *   const model = await load("model.odm");
 *   model.predict({ user: [17n], item: [42] });            // Float32Array, one score a row
 *   model.rank({ user: [17n] }, { item: [42, 43, 44] });   // one context, many candidates
 *   model.predict({ user: ["u17"], item: ["i42"] }, { raw: true });
 *   model.close();
 */

import { FileFormatError, InputError, MemoryError, OnDeviceError, TrustError, UnsupportedError, bytesOf, kindOf, moduleOf } from "./sources.js";

export { FileFormatError, InputError, MemoryError, OnDeviceError, TrustError, UnsupportedError };

const STATUS = [null, InputError, FileFormatError, UnsupportedError, MemoryError, OnDeviceError];
const RAW = { missing: 0, text: 1, integer: 2, number: 3, boolean: 4 };
const RAW_BYTES = 16; // of an od_raw_value: type, size, value
const SPARE_BYTES = 16 << 20; // a closed model's memory up to this size serves the next model
const FIRST_SIZE = 8; // of a free axis, until a request says another
const MOST_SIZES = 16; // variants of a model of free axes, before memory starts again
const TWO_32 = 4294967296;
const SIGNED = ["manifest", "name", "roots", "seen", "now", "verifier"]; // options beside `keys`
const OPTIONS = ["wasm", "keys", ...SIGNED];
const MOST_BYTES = 2147483648; // of a module's memory

// (module (func (result v128) i32.const 0 i8x16.splat)): valid where engines know 128-bit vectors
const VECTORS = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11,
]);

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8");

const spare = new WeakMap(); // by module: an instance that a closed model has left

/** Whether this JavaScript engine has 128-bit vectors; without them a slower module is used. */
export function hasVectors() {
  return WebAssembly.validate(VECTORS);
}

/**
 * Open a model.
 * @param source address or path of an .odm file, or its bytes (ArrayBuffer, typed array, Blob, Response)
 * @param options.wasm the engine: an address, bytes or a WebAssembly.Module; by default the file beside this one
 * @param options.keys who must have signed the set of files that the model belongs to, and with it
 *     `manifest`, `name`, `roots`, `seen`, `now`: see README.md
 */
export async function load(source, options = {}) {
  if (options === null || typeof options !== "object") throw new InputError(`options: expected an object, got ${kindOf(options)}`);
  const unknown = Object.keys(options).find((name) => !OPTIONS.includes(name)); // perhaps meant to be checked
  if (unknown !== undefined) throw new InputError(`options: '${unknown}' is none of ${OPTIONS.join(", ")}`);
  const signed = "keys" in options;
  const idle = SIGNED.find((name) => name in options && !signed);
  if (idle) throw new InputError(`${idle}: without keys no signature is checked`);
  let [bytes, module] = await Promise.all([
    bytesOf(source, "the model"),
    moduleOf(options.wasm ?? new URL(hasVectors() ? "./ondevice.wasm" : "./ondevice-plain.wasm", import.meta.url)),
  ]);
  let set = null;
  if (signed) {
    // a copy of bytes that came from outside, which could change before they are used
    if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) bytes = bytes.slice();
    const { checkSigned } = await import("./signatures.js");
    set = await checkSigned(bytes, source, options);
  }
  let instance = spare.get(module);
  spare.delete(module);
  instance ??= await instanceOf(module);
  return new Model(module, instance, bytes, set);
}

async function instanceOf(module) {
  let instance;
  try {
    instance = await WebAssembly.instantiate(module, {});
  } catch (error) {
    if (error instanceof RangeError) throw new MemoryError(`no memory for another model: ${error.message}`);
  }
  if (!instance?.exports.lay_out) throw new FileFormatError("the engine: a WebAssembly module of something else");
  return instance;
}

/** A model ready to score requests. Requests are synchronous; use a Worker for large ones. */
class Model {
  #module;
  #instance;
  #engine;
  #memory;
  #inputs;
  #outputs;
  #names;
  #features = null;
  #sizes = []; // of free axes: pairs of name and size
  #variants = 0;
  #busy = false; // with a request
  #set; // that was signed
  #bytes = null; // of the file, where axes are free: memory may have to start again

  constructor(module, instance, bytes, set) {
    this.#module = module;
    this.#set = set;
    this.#instance = instance;
    this.#engine = instance.exports;
    this.#memory = instance.exports.memory;
    try {
      try {
        this.#open(bytes, []);
      } catch (error) {
        const free = error instanceof UnsupportedError ? this.#freeAxes(bytes) : [];
        if (!free.length) throw error;
        this.#open(bytes, free);
        this.#bytes = bytes.slice();
      }
    } catch (error) {
      if (this.#engine) this.#leave();
      throw error;
    }
    this.#names = new Set(this.#inputs.map((item) => item.name));
  }

  /** The inputs: name, "int64" or "float32", sizes after the rows (0: free), values in a row. */
  get inputs() {
    return this.#inputs.map(({ name, dtype, shape, size }) => ({ name, dtype, shape: [...shape], size }));
  }

  /** Names of the outputs; with several, predict and rank return an object of them. */
  get outputs() {
    return this.#outputs.map((item) => item.name);
  }

  /** Names of the fields that take raw values. */
  get features() {
    return [...this.#openedFeatures().keys()];
  }

  /** The file's description, parsed. */
  get info() {
    const engine = this.#use();
    return this.#json(engine.info(), engine.info_size());
  }

  /** The embedding tables: name, rows, width, and bytes in the file (rows, index of kept widths, scales). */
  get tables() {
    const engine = this.#use();
    return Array.from({ length: engine.table_count() }, (_, i) => {
      const [rows, dim, bytes] = new Uint32Array(this.#memory.buffer, engine.table_sizes(i), 3);
      return { name: this.#text(engine.table_name(i)), rows, dim, bytes };
    });
  }

  /** The kernels in use, such as "wasm-simd". */
  get kernels() {
    return this.#text(this.#use().kernels());
  }

  /** Bytes of WebAssembly memory that this model holds. */
  get memoryBytes() {
    this.#use();
    return this.#memory.buffer.byteLength;
  }

  /** Version and SHA-256 of the signed set that the model was loaded from; null where no signature was asked for. */
  get signedSet() {
    return this.#set;
  }

  /** Scores of rows: an array with a value (or a list of values) a row for every input. */
  predict(inputs, { raw = false } = {}) {
    return this.#alone(() => this.#predict(inputs, raw));
  }

  #predict(inputs, raw) {
    const request = this.#checked(inputs, raw);
    const rows = this.#rowsOf(request);
    return this.#score(request, rows, null);
  }

  /** Scores of candidates for one context: inputs of one value, and inputs of one value a candidate. */
  rank(context, candidates, { raw = false } = {}) {
    return this.#alone(() => this.#rank(context, candidates, raw));
  }

  #rank(context, candidates, raw) {
    const shared = objectOf(context, "the context");
    const varied = objectOf(candidates, "the candidates");
    const both = Object.keys(shared).filter((name) => Object.hasOwn(varied, name));
    if (both.length) throw new InputError(`inputs given as context and as candidates: ${both.join(", ")}`);
    if (!Object.keys(varied).length)
      throw new InputError("no candidate inputs; give at least one input with a value a candidate");
    const request = this.#checked({ ...shared, ...varied }, raw);
    for (const item of request.filter((one) => Object.hasOwn(shared, one.name)))
      if (item.rows !== 1)
        throw new InputError(`context input '${item.name}': expected one value, got ${item.rows}`);
    const mask = request.map((item) => (Object.hasOwn(shared, item.name) ? 1 : 0));
    const rows = this.#rowsOf(request.filter((_, i) => !mask[i]));
    return this.#score(request, rows, mask);
  }

  /** The IDs of a field's raw values, one after another: what `raw` does first. */
  encode(name, values) {
    return this.#alone(() => this.#encode(name, values));
  }

  #encode(name, values) {
    return this.#idsOf(name, values).ids;
  }

  /**
   * Compare the model with the answers of its source that travel in the file.
   * @returns rows: how many; difference: the largest one, in units of the output's scale; tolerance; passed
   */
  verify() {
    const engine = this.#use();
    const description = new Uint8Array(this.#memory.buffer, engine.info(), engine.info_size()).slice();
    const vectors = vectorsOf(description);
    if (!vectors) return { rows: 0, difference: 0, tolerance: 0, passed: false };
    const scores = this.predict(this.#rowsOfVectors(vectors.inputs));
    const named = scores instanceof Float32Array ? { [this.outputs[0]]: scores } : scores;
    const rows = Object.values(vectors.inputs)[0].shape[0];
    const differences = Object.entries(vectors.outputs).map(([name, right]) => {
      if (named[name]?.length !== right.length || right.length % rows)
        throw new FileFormatError(`test vectors: output '${name}' has another shape`);
      return largestDifference(named[name], right, rows);
    });
    const difference = Math.max(0, ...differences); // NaN where one is
    return { rows, difference, tolerance: vectors.tolerance, passed: difference <= vectors.tolerance };
  }

  #rowsOfVectors(inputs) {
    const nested = (values, shape) => {
      if (shape.length < 2) return Array.from(values);
      const step = values.length / shape[0];
      return Array.from({ length: shape[0] }, (_, i) => nested(values.slice(i * step, (i + 1) * step), shape.slice(1)));
    };
    return Object.fromEntries(Object.entries(inputs).map(([name, item]) => [name, nested(item.values, item.shape)]));
  }

  /** Give the memory back. The model cannot be used afterwards. */
  close() {
    if (this.#engine) this.#alone(() => this.#leave());
  }

  [Symbol.dispose ?? Symbol("dispose")]() {
    this.close();
  }

  #leave() {
    this.#engine.reset();
    if (this.#memory.buffer.byteLength <= SPARE_BYTES) spare.set(this.#module, this.#instance);
    this.#instance = this.#engine = this.#memory = this.#bytes = null;
  }

  /** Do what uses the engine's memory; values that a caller computes while they are read cannot do so too. */
  #alone(action) {
    this.#use();
    if (this.#busy) throw new OnDeviceError("the model is busy: the values of a request use it while they are read");
    this.#busy = true;
    try {
      return action();
    } finally {
      this.#busy = false;
    }
  }

  #use() {
    if (!this.#engine) throw new OnDeviceError("the model is closed");
    return this.#engine;
  }

  #open(bytes, sizes) {
    const place = this.#startWith(bytes);
    const [list, count] = this.#sizeList(sizes);
    this.#check(this.#call(() => this.#engine.open(place, bytes.length, list, count)));
    this.#variants = 1;
    this.#sizes = sizes;
    this.#describe();
  }

  /** Forget all that memory holds and put a file into it: its address. */
  #startWith(bytes) {
    this.#engine.reset();
    this.#features = null;
    this.#scratchSize = 0;
    const place = bytes.length <= MOST_BYTES ? this.#engine.allocate(bytes.length) : 0;
    if (!place) throw new MemoryError(`a model of ${bytes.length} bytes does not fit the memory`);
    new Uint8Array(this.#memory.buffer).set(bytes, place);
    return place;
  }

  /** A description: JSON, then perhaps a zero byte and the arrays that it refers to. */
  #json(at, size) {
    const bytes = new Uint8Array(this.#memory.buffer, at, size);
    const end = bytes.indexOf(0);
    try {
      return JSON.parse(decoder.decode(end < 0 ? bytes : bytes.subarray(0, end)));
    } catch (error) {
      throw new FileFormatError(`the description is no JSON: ${error.message}`);
    }
  }

  /** The axes, beside the rows, whose sizes a file leaves free: pairs of name and a size to open it with. */
  #freeAxes(bytes) {
    const place = this.#startWith(bytes);
    this.#check(this.#call(() => this.#engine.describe(place, bytes.length)));
    const { inputs, vectors } = this.#json(this.#engine.described(), this.#engine.described_size());
    const sizes = new Map();
    try {
      for (const { name, shape } of inputs)
        shape.forEach((axis, place) => {
          if (place && typeof axis === "string")
            // the source model took the sizes of the test vectors; others it may refuse
            sizes.set(axis, vectors?.inputs[name]?.shape[place] ?? FIRST_SIZE);
        });
    } catch (error) {
      throw new FileFormatError(`the description of the inputs: ${error.message}`);
    }
    return [...sizes].sort();
  }

  #sizeList(sizes) {
    const texts = sizes.map(([name]) => encoder.encode(name));
    const place = this.#engine.allocate(8 * sizes.length + texts.reduce((sum, text) => sum + text.length + 1, 1));
    if (!place) throw new MemoryError("memory ended");
    const bytes = new Uint8Array(this.#memory.buffer);
    const view = new DataView(this.#memory.buffer);
    let at = place + 8 * sizes.length;
    texts.forEach((text, i) => {
      view.setUint32(place + 8 * i, at, true);
      view.setUint32(place + 8 * i + 4, sizes[i][1], true);
      bytes.set(text, at);
      bytes[at + text.length] = 0;
      at += text.length + 1;
    });
    return [place, sizes.length];
  }

  #describe() {
    const engine = this.#engine;
    const read = (get, index, names) => {
      const at = get(index);
      const view = new DataView(this.#memory.buffer);
      const rank = view.getUint32(at + 8, true);
      const shape = Array.from({ length: rank - 1 }, (_, i) => view.getUint32(at + 16 + 4 * i, true));
      return {
        name: this.#text(view.getUint32(at, true)),
        dtype: view.getUint32(at + 4, true) ? "float32" : "int64",
        shape,
        size: view.getUint32(at + 12 + 4 * 8, true),
        names,
      };
    };
    const shapes = new Map(this.info.inputs?.map((item) => [item.name, item.shape]));
    this.#inputs = Array.from({ length: engine.input_count() }, (_, i) => read(engine.input, i));
    for (const item of this.#inputs) item.axes = (shapes.get(item.name) ?? []).slice(1);
    this.#outputs = Array.from({ length: engine.output_count() }, (_, i) => read(engine.output, i));
  }

  #text(at) {
    const bytes = new Uint8Array(this.#memory.buffer);
    return decoder.decode(bytes.subarray(at, bytes.indexOf(0, at)));
  }

  /** A call into the engine; a trap leaves it in no state to go on. */
  #call(call) {
    try {
      return call();
    } catch (error) {
      if (!(error instanceof WebAssembly.RuntimeError) && !(error instanceof RangeError)) throw error;
      this.#instance = this.#engine = this.#memory = null;
      throw new OnDeviceError(`the engine stopped: ${error.message}`);
    }
  }

  #check(status) {
    if (status) throw new STATUS[status](this.#text(this.#engine.error_text()));
  }

  /** The values of every input in order: what to write, how many rows. */
  #checked(inputs, raw) {
    const given = objectOf(inputs, "the inputs");
    const missing = this.#inputs.filter((item) => !Object.hasOwn(given, item.name)).map((item) => item.name);
    const unknown = Object.keys(given).filter((name) => !this.#names.has(name));
    if (missing.length || unknown.length) {
      const faults = missing.length ? [`missing inputs: ${missing.join(", ")}`] : [];
      if (unknown.length) faults.push(`unknown inputs: ${unknown.join(", ")}`);
      throw new InputError(`${faults.join("; ")}; the model takes: ${[...this.#names].join(", ")}`);
    }
    const read = raw ? (item) => this.#encoded(item, given[item.name]) : (item) => flat(item, given[item.name]);
    const request = this.#inputs.map(read);
    if (this.#bytes) this.#resize(request);
    return request;
  }

  #rowsOf(request) {
    const rows = request[0].rows;
    if (!rows) throw new InputError(`input '${request[0].name}': the batch is empty; expected at least one row`);
    const other = request.find((item) => item.rows !== rows);
    if (other)
      throw new InputError(`input '${other.name}' has ${other.rows} rows, input '${request[0].name}' has ${rows}`);
    return rows;
  }

  /** Open the model for the sizes that a request's free axes have. */
  #resize(request) {
    const sizes = new Map();
    request.forEach((item, i) => {
      this.#inputs[i].axes.forEach((axis, place) => {
        if (typeof axis !== "string") return;
        const size = item.shape[place];
        if ((sizes.get(axis) ?? size) !== size)
          throw new InputError(`input '${item.name}': axis '${axis}' has size ${size}, elsewhere ${sizes.get(axis)}`);
        sizes.set(axis, size);
      });
    });
    const wanted = [...sizes].sort();
    const text = wanted.map(([axis, size]) => `${axis}=${size}`).join(", ");
    if (wanted.some(([, size]) => !size)) throw new InputError(`free axes must have a size, got ${text}`);
    if (String(wanted) === String(this.#sizes)) return;
    const before = this.#sizes;
    try {
      this.#openWith(wanted);
    } catch (error) {
      if (this.#engine) this.#open(this.#bytes, before);
      if (!(error instanceof UnsupportedError) && !(error instanceof FileFormatError)) throw error;
      throw new InputError(`the model does not take the sizes ${text}: ${error.message}`);
    }
  }

  /** Open the model with other sizes, beside those before where memory is left, else in their place. */
  #openWith(sizes) {
    if (this.#variants < MOST_SIZES) {
      const [list, count] = this.#sizeList(sizes);
      const status = this.#call(() => this.#engine.resize(list, count));
      if (STATUS[status] !== MemoryError) {
        this.#check(status);
        this.#variants += 1;
        this.#sizes = sizes;
        this.#describe();
        return;
      }
    }
    this.#open(this.#bytes, sizes);
  }

  #score(request, rows, mask) {
    const engine = this.#engine;
    let shared = 0;
    if (mask) {
      shared = this.#scratch(mask.length);
      new Uint8Array(this.#memory.buffer).set(mask, shared);
    }
    const table = engine.lay_out(rows, shared);
    if (!table) throw new MemoryError(`a request of ${rows} rows does not fit the memory`);
    const buffer = this.#memory.buffer;
    const places = new Uint32Array(buffer, table, request.length + this.#outputs.length);
    for (let i = 0; i < request.length; i++) {
      const input = this.#inputs[i];
      if (request[i].size !== request[i].rows * input.size)
        throw new InputError(
          `input '${input.name}': expected ${input.size} values a row, got ${request[i].size} in ${request[i].rows} rows`,
        );
      request[i].write(buffer, places[i]);
    }
    this.#check(this.#call(() => (mask ? engine.rank(rows) : engine.run(rows))));
    const results = this.#outputs.map((item, i) =>
      new Float32Array(this.#memory.buffer, places[request.length + i], rows * item.size).slice(),
    );
    if (results.length === 1) return results[0];
    return Object.fromEntries(this.#outputs.map((item, i) => [item.name, results[i]]));
  }

  #scratchPlace = 0;
  #scratchSize = 0;

  /** Bytes for what is passed to the engine, kept for the next call. */
  #scratch(size) {
    if (this.#scratchSize < size) {
      const grown = Math.max(size, 2 * this.#scratchSize, 1024);
      const place = grown <= MOST_BYTES ? this.#engine.allocate(grown) : 0;
      if (!place) throw new MemoryError(`${size} bytes of a request do not fit the memory`);
      this.#scratchPlace = place;
      this.#scratchSize = grown;
    }
    return this.#scratchPlace;
  }

  #openedFeatures() {
    if (this.#features) return this.#features;
    const engine = this.#use();
    this.#check(this.#call(() => engine.open_features()));
    this.#features = new Map();
    for (let i = 0; i < engine.feature_count(); i++)
      this.#features.set(this.#text(engine.feature_name(i)), { index: i, length: engine.feature_length(i) });
    return this.#features;
  }

  /** Raw values of an input as its IDs; where it takes numbers, the IDs are these. */
  #encoded(input, values) {
    const { rows, length, ids } = this.#idsOf(input.name, values);
    const shape = input.shape.length ? [length] : [];
    return wholeRequest(input.name, rows, ids.length, shape, (buffer, at) => {
      if (input.dtype === "float32") new Float32Array(buffer, at, ids.length).set(Array.from(ids, floatOf));
      else new BigInt64Array(buffer, at, ids.length).set(ids);
    });
  }

  /** The IDs of a field's raw values, `length` of them a row. */
  #idsOf(name, values) {
    const feature = this.#openedFeatures().get(name);
    if (!feature) throw new InputError(`input '${name}' takes no raw values: the file does not say how to read them`);
    const list = listOf(name, values);
    const ids = new BigInt64Array(list.length * feature.length);
    list.forEach((value, row) => {
      const isList = isArray(value);
      const most = exactUpTo(isList ? value : values);
      const found = this.#encodeOne(feature, isList ? Array.from(value) : value, isList, most, `${name}[${row}]`);
      ids.set(found, row * feature.length);
    });
    return { rows: list.length, length: feature.length, ids };
  }

  #encodeOne(feature, value, isList, most, where) {
    const engine = this.#engine;
    const values = isList ? value : [value];
    const texts = values.map((item) => (typeof item === "string" ? wellFormed(item, where) : null));
    const size = texts.reduce((sum, text) => sum + (text?.length ?? 0), 0);
    const ids = this.#scratch(8 * feature.length + RAW_BYTES * values.length + size + 8);
    const records = ids + 8 * feature.length;
    const view = new DataView(this.#memory.buffer);
    const bytes = new Uint8Array(this.#memory.buffer);
    let at = records + RAW_BYTES * values.length;
    values.forEach((item, i) => {
      const record = records + RAW_BYTES * i;
      if (texts[i]) {
        bytes.set(texts[i], at);
        view.setUint32(record, RAW.text, true);
        view.setUint32(record + 4, texts[i].length, true);
        view.setUint32(record + 8, at, true);
        at += texts[i].length;
      } else writeRaw(view, record, item, most, where);
    });
    const status = this.#call(() =>
      isList ? engine.encode_list(feature.index, records, values.length, ids) : engine.encode(feature.index, records, ids),
    );
    if (status) throw new STATUS[status](`${where}: ${this.#text(engine.error_text())}`);
    return new BigInt64Array(this.#memory.buffer, ids, feature.length);
  }
}

function isArray(value) {
  return Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));
}

function objectOf(value, what) {
  if (value === null || typeof value !== "object" || Array.isArray(value) || ArrayBuffer.isView(value))
    throw new InputError(`${what}: expected an object with an array for every name, got ${kindOf(value)}`);
  return value;
}

function listOf(name, values) {
  if (!isArray(values)) throw new InputError(`input '${name}': expected an array with a value a row, got ${kindOf(values)}`);
  return Array.from(values);
}

function wholeRequest(name, rows, size, shape, write) {
  return { name, rows, size, shape, write };
}

/** UTF-8 of a text. Half a surrogate pair has none. */
function wellFormed(text, where) {
  const bytes = encoder.encode(text);
  if (text.isWellFormed ? !text.isWellFormed() : decoder.decode(bytes) !== text)
    throw new InputError(`${where}: the text holds half a surrogate pair`);
  return bytes;
}

/** A raw value; a Number above `most` is none of the integers, though it may be a number. */
function writeRaw(view, record, value, most, where) {
  view.setUint32(record + 4, 0, true);
  const type = (name) => view.setUint32(record, RAW[name], true);
  if (value === null || value === undefined) type("missing");
  else if (typeof value === "boolean") {
    type("boolean");
    view.setInt32(record + 8, value ? 1 : 0, true);
  } else if (typeof value === "bigint" || (Number.isInteger(value) && Math.abs(value) <= most)) {
    const integer = BigInt(value);
    if (integer < -(2n ** 63n) || integer >= 2n ** 63n)
      throw new InputError(`${where}: ${integer} does not fit 64 bits`);
    type("integer");
    view.setBigInt64(record + 8, integer, true);
  } else if (typeof value === "number") {
    type("number");
    view.setFloat64(record + 8, value, true);
  } else throw new InputError(`${where}: expected a text, a number, a boolean or null, got ${kindOf(value)}`);
}

/** An input's values as one run of numbers: how many rows, their shape, and what writes them. */
function flat(input, values) {
  const { name } = input;
  if (ArrayBuffer.isView(values) && !(values instanceof DataView)) {
    const free = input.axes.filter((axis) => typeof axis === "string").length;
    if (input.shape.length && free)
      throw new InputError(`input '${name}': give an array of rows: its sizes are free`);
    const rows = values.length / input.size;
    if (!Number.isInteger(rows))
      throw new InputError(`input '${name}': ${values.length} values are no whole number of rows of ${input.size}`);
    checkExact(input, values);
    return wholeRequest(name, rows, values.length, input.shape, writerOf(input, values));
  }
  if (!Array.isArray(values))
    throw new InputError(`input '${name}': expected an array with a value a row, got ${kindOf(values)}`);
  if (!input.shape.length) return wholeRequest(name, values.length, values.length, [], writerOf(input, values));
  const all = [];
  const shape = [];
  let first = values[0];
  for (let depth = 0; depth < input.shape.length; depth++) {
    shape.push(first?.length ?? 0);
    first = first?.[0];
  }
  const expected = shape.map((size, i) => (typeof input.axes[i] === "string" ? size : input.shape[i]));
  gather(input, values, [values.length, ...expected], [], all);
  return wholeRequest(name, values.length, all.length, expected, writerOf(input, all));
}

function gather(input, values, shape, path, all) {
  if (!isArray(values) || values.length !== shape[0])
    throw new InputError(
      `input '${input.name}' at [${path.join(", ")}]: expected ${isArray(values) ? `${shape[0]} values, got ${values.length}` : `an array, got ${kindOf(values)}`}`,
    );
  if (shape.length === 1) {
    checkExact(input, values);
    for (const value of values) all.push(value);
  } else for (let i = 0; i < values.length; i++) gather(input, values[i], shape.slice(1), [...path, i], all);
}

/** What writes an input's values; an array that became longer or shorter since it was counted is refused. */
function writerOf(input, values) {
  const { name } = input;
  const size = values.length;
  return (buffer, at) => {
    if (values.length !== size) throw new InputError(`input '${name}': its array changed while the request was read`);
    if (input.dtype === "float32") writeFloats(name, values, new Float32Array(buffer, at, size));
    else if (values instanceof BigInt64Array || values instanceof BigUint64Array)
      new BigUint64Array(buffer, at, size).set(new BigUint64Array(values.buffer, values.byteOffset, size));
    else writeIntegers(name, values, new Int32Array(buffer, at, 2 * size));
  };
}

/** The largest integer that nothing but itself becomes in these values. */
function exactUpTo(values) {
  if (values instanceof Float32Array) return 2 ** 24 - 1;
  if (globalThis.Float16Array && values instanceof Float16Array) return 2 ** 11 - 1;
  return Number.MAX_SAFE_INTEGER;
}

/** Refuse IDs in floats that are too short for them: they were rounded before they came. */
function checkExact(input, values) {
  const most = exactUpTo(values);
  if (input.dtype === "float32" || most === Number.MAX_SAFE_INTEGER) return;
  const rounded = values.find((value) => Math.abs(value) > most);
  if (rounded !== undefined)
    throw new InputError(`input '${input.name}': ${rounded} is beyond the integers that a ${kindOf(values)} holds exactly`);
}

function writeFloats(name, values, to) {
  for (let i = 0; i < to.length; i++) {
    const value = values[i];
    if (typeof value !== "number") throw new InputError(`input '${name}', value ${i}: expected a number, got ${kindOf(value)}`);
    to[i] = value;
    if (Number.isFinite(value) && !Number.isFinite(to[i]))
      throw new InputError(`input '${name}', value ${i}: ${value} is too large for float32`);
  }
}

/** Numbers and BigInts as 64-bit integers: two halves of 32 bits, which is faster than BigInt(number). */
function writeIntegers(name, values, halves) {
  for (let i = 0; 2 * i < halves.length; i++) {
    const value = values[i];
    if (typeof value === "number" && Number.isSafeInteger(value)) {
      halves[2 * i] = value | 0; // the low 32 bits, also of negative and of large numbers
      halves[2 * i + 1] = Math.floor(value / TWO_32);
    } else if (typeof value === "bigint" && value >= -(2n ** 63n) && value < 2n ** 64n) {
      halves[2 * i] = Number(BigInt.asIntN(32, value));
      halves[2 * i + 1] = Number(BigInt.asIntN(32, value >> 32n));
    } else throw new InputError(`input '${name}', value ${i}: ${integerFault(value)}`);
  }
}

/** A number from which float32 takes the nearest of a 64-bit integer, rounded once. */
function floatOf(id) {
  if (BigInt(Number(id)) === id) return Number(id);
  const below = id & 2047n ? 1n : 0n; // stands for the bits that a double has no room for
  return Number(((id >> 11n) << 1n) | below) * 1024;
}

function integerFault(value) {
  if (typeof value === "number" && Number.isInteger(value))
    return `${value} is beyond the integers that a Number holds exactly; give a BigInt (${value > 0 ? "" : "-"}...n)`;
  if (typeof value === "bigint") return `${value} does not fit 64 bits`;
  if (typeof value === "number") return `expected an integer, got ${value}`;
  return `expected an integer (Number or BigInt), got ${kindOf(value)}`;
}

/**
 * The scale of an output for every position in its rows, as ondevice/difference.py defines it: 1 for
 * probabilities, less for outputs that are all small, and typical magnitudes for others.
 */
function outputScales(values, rows) {
  const width = values.length / rows;
  return Float64Array.from({ length: width }, (_, column) => {
    const all = Float64Array.from({ length: rows }, (_, row) => values[row * width + column]);
    const magnitudes = all.map(Math.abs).sort();
    const small = Math.min(Math.max(10 * magnitudes[rows - 1], 0.03), 1);
    if (all.every((value) => value >= 0 && value <= 1)) return small;
    return Math.max(4 * magnitudes[Math.floor((9 * (rows - 1)) / 10)], small);
  });
}

/** The largest difference, relative to the output's scale or, if larger, to the value; NaN where either is. */
function largestDifference(got, expected, rows) {
  const scales = outputScales(expected, rows);
  let largest = 0;
  for (let i = 0; i < expected.length; i++)
    largest = Math.max(largest, Math.abs(got[i] - expected[i]) / Math.max(Math.abs(expected[i]), scales[i % scales.length]));
  return largest;
}

const ARRAYS = { U8: Uint8Array, U16: Uint16Array, U32: Uint32Array, I64: BigInt64Array, F32: Float32Array, F64: Float64Array };

/** The test vectors of a description, or null where the file has none. */
function vectorsOf(description) {
  const end = description.indexOf(0);
  const { vectors } = JSON.parse(decoder.decode(end < 0 ? description : description.subarray(0, end)));
  if (!vectors) return null;
  const attached = description.subarray(end + 1);
  const read = (item, usual) => {
    const size = item.shape.reduce((a, b) => a * b, 1);
    if (typeof item.data === "string") {
      // version 1 of the description: base64
      const bytes = Uint8Array.from(atob(item.data), (letter) => letter.charCodeAt(0));
      const Kind = (item.dtype ?? usual) === "float32" ? Float32Array : BigInt64Array;
      return { shape: item.shape, values: new Kind(bytes.buffer) };
    }
    const Kind = ARRAYS[item.dtype];
    const stop = item.at + size * Kind.BYTES_PER_ELEMENT;
    if (!(item.at >= 0 && stop <= attached.length)) throw new FileFormatError("a test vector leaves the file");
    return { shape: item.shape, values: new Kind(attached.slice(item.at, stop).buffer) };
  };
  const all = (items, usual) =>
    Object.fromEntries(Object.entries(items).map(([name, item]) => [name, read(item, usual)]));
  try {
    const outputs = all(vectors.outputs, "float32");
    return {
      inputs: all(vectors.inputs, "int64"),
      outputs: Object.fromEntries(Object.entries(outputs).map(([name, item]) => [name, Array.from(item.values, Number)])),
      tolerance: vectors.tolerance,
    };
  } catch (error) {
    if (error instanceof OnDeviceError) throw error;
    throw new FileFormatError(`test vectors: ${error.message}`);
  }
}

/* tasks.js: does what a test asks of web/ondevice.js, in Node or in a page, and says what came out.
 *
 * A task is an object with `do`, the name of a function below, and what that function reads. Integers
 * come as texts, which become BigInts; a float that JSON lacks comes as "nan", "inf" or "-inf". */

const SPECIAL = { nan: NaN, inf: Infinity, "-inf": -Infinity };

function values(list) {
  return list.map((value) => {
    if (Array.isArray(value)) return values(value);
    if (typeof value !== "string") return value;
    return value in SPECIAL ? SPECIAL[value] : BigInt(value);
  });
}

const request = (inputs) => Object.fromEntries(Object.entries(inputs).map(([name, list]) => [name, values(list)]));

const plain = (scores) => Array.from(scores, (x) => (Number.isFinite(x) ? x : String(x)));

function listed(result) {
  if (result instanceof Float32Array) return plain(result);
  return Object.fromEntries(Object.entries(result).map(([name, scores]) => [name, plain(scores)]));
}

/** Raw values of tests/golden/cells.json. */
function golden(type, value) {
  if (type === "list") return value.map(([kind, item]) => golden(kind, item));
  if (type === "nan") return NaN;
  if (type === "infinity") return Infinity;
  if (type === "integer") return BigInt(value);
  return value;
}

/** A value that does something when it is read. */
const computed = (action) => Object.defineProperty([1], 0, { get: () => (action(), 1) });

/** A small generator of pseudo-random numbers (xorshift32). */
function random(seed) {
  let state = seed || 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

export function does(api, read) {
  const opened = async (task) => api.load(await read(task.model), task.wasm ? { wasm: await read(task.wasm) } : {});

  return {
    async scores(task) {
      const model = await opened(task);
      const result = [];
      for (const { context, inputs } of task.requests)
        result.push(listed(context ? model.rank(request(context), request(inputs)) : model.predict(request(inputs))));
      const { kernels } = model;
      model.close();
      return { kernels, result };
    },

    async raw(task) {
      const model = await opened(task);
      const scores = task.context
        ? model.rank(task.context, task.inputs, { raw: true })
        : model.predict(task.inputs, { raw: true });
      return listed(scores);
    },

    async cells(task) {
      const model = await opened(task);
      return task.cases.map(({ field, type, value }) => {
        try {
          return Array.from(model.encode(field, [golden(type, value)]), String);
        } catch (error) {
          return `${error.name}: ${error.message}`;
        }
      });
    },

    /** Requests one after another: scores, or the error of those that are refused. */
    async answers(task) {
      const model = await opened(task);
      return task.requests.map(({ context, inputs, raw, length }) => {
        const given = raw ? inputs : request(inputs);
        // a row of so many values, which as JSON would be long
        for (const name of Object.keys(given)) if (length) given[name] = given[name].map((row) => (Array.isArray(row) ? Array(length).fill(row[0]) : row));
        try {
          return listed(context ? model.rank(request(context), given) : model.predict(given, { raw: Boolean(raw) }));
        } catch (error) {
          return `${error.name}: ${error.message}`;
        }
      });
    },

    /** Signatures over messages, in hexadecimal: whether each is valid. */
    async signatures(task) {
      const bytes = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
      const { Verifier } = await import(`${task.dist}/signatures.js`);
      const verifier = await Verifier.open(await read(task.wasm));
      return task.vectors.map((vector) => verifier.verify(...vector.map(bytes)));
    },

    /** Signed loads, one after another: the version, or the error. Bytes are files of `folder`. */
    async signed(task) {
      const said = [];
      for (const { source, asBytes, keys, now, ...options } of task.loads) {
        const of = async (name) => (asBytes ? await read(name) : name);
        if ("manifest" in options) options.manifest = await read(options.manifest);
        if ("roots" in options) options.roots = await Promise.all(options.roots.map(read));
        if (now) options.now = new Date(now);
        const given = Array.isArray(keys) ? keys.map((key) => (Array.isArray(key) ? Uint8Array.from(key) : key)) : keys;
        try {
          const model = await api.load(await of(source), { ...options, keys: given });
          said.push(task.whole ? model.signedSet : model.signedSet.version);
          model.close();
        } catch (error) {
          said.push(`${error.name}: ${error.message}`);
        }
      }
      return said;
    },

    /** What a caller changes in the bytes while they are checked is not what is loaded. */
    async swapped(task) {
      const bytes = await read(task.source);
      const before = bytes.slice();
      const loading = api.load(bytes, { keys: task.keys, manifest: await read(task.manifest), name: task.name, now: new Date(task.now) });
      for (let i = 0; i < 50; i++) {
        bytes.fill(i);
        await null;
      }
      const model = await loading.catch((error) => error);
      if (model instanceof Error) return `${model.name}: ${model.message}`;
      const scores = listed(model.predict(request(task.inputs)));
      const plainly = await api.load(before);
      return JSON.stringify(scores) === JSON.stringify(listed(plainly.predict(request(task.inputs)))) ? "the same" : "others";
    },

    async sha256(task) {
      const { Verifier } = await import(`${task.dist}/signatures.js`);
      const verifier = await Verifier.open(await read(task.wasm));
      return task.sizes.map((size) => verifier.sha256(Uint8Array.from({ length: size }, (_, i) => i * i)));
    },

    async verified(task) {
      return (await opened(task)).verify();
    },

    /** What the module exports, and the members of a model. */
    async members(task) {
      const model = await opened(task);
      const members = Object.getOwnPropertyNames(Object.getPrototypeOf(model));
      return { module: Object.keys(api), model: members.filter((name) => name !== "constructor") };
    },

    /** Sources that cannot be read, and modules that are no engine: the error of each. */
    async sources(task) {
      const bytes = await read(task.model);
      const shared = (all) => {
        const copy = new Uint8Array(new SharedArrayBuffer(all.length + 3), 3);
        copy.set(all);
        return copy;
      };
      const spent = new Response(bytes);
      await spent.arrayBuffer();
      const cut = new ReadableStream({ pull: (controller) => controller.error(new Error("cut")) });
      const wasm = await read(task.wasm);
      const attempts = {
        missing: () => api.load(new Response("", { status: 404 })),
        spent: () => api.load(spent),
        cut: () => api.load(new Response(cut)),
        shortEngine: () => api.load(bytes, { wasm: wasm.subarray(0, wasm.length >> 1) }),
        otherEngine: () => api.load(bytes, { wasm: wasm.subarray(0, 8) }),
        large: () => api.load(new Uint8Array(2 ** 31 + 1)),
        blob: () => api.load(new Blob([bytes])),
        response: () => api.load(new Response(bytes)),
        sharedModel: () => api.load(shared(bytes)),
        sharedEngine: () => api.load(bytes, { wasm: shared(wasm) }),
      };
      const said = {};
      for (const [name, attempt] of Object.entries(attempts))
        said[name] = await attempt().then((model) => model.kernels, (error) => `${error.name}: ${error.message}`);
      return said;
    },

    /** Requests of changing sizes and texts: memory settles. */
    async growth(task) {
      const model = await opened(task);
      const [name] = model.features;
      const ask = (rows) => {
        model.predict(Object.fromEntries(model.inputs.map((input) => [input.name, new Int32Array(rows)])));
        model.encode(name, Array.from({ length: 3 }, () => "7".repeat(rows % 19)));
      };
      ask(300);
      const { memoryBytes } = model;
      for (let i = 0; i < task.count; i++) ask(1 + ((i * 7919) % 300));
      return [memoryBytes, model.memoryBytes];
    },

    async description(task) {
      const model = await opened(task);
      return { inputs: model.inputs, outputs: model.outputs, kernels: model.kernels };
    },

    /** Changed and cut files: each must load and score, or be refused with a typed error. */
    async mutants(task) {
      const bytes = new Uint8Array(await read(task.model));
      const below = random(task.seed);
      const outcomes = {};
      for (let i = 0; i < task.count; i++) {
        const copy = bytes.slice(0, below(3) ? bytes.length : below(bytes.length));
        for (let n = below(4); n >= 0 && copy.length; n--) copy[below(copy.length)] = below(256);
        let outcome = "scored";
        try {
          const model = await api.load(copy);
          model.predict(request(task.inputs));
          model.close();
        } catch (error) {
          if (!(error instanceof api.OnDeviceError)) throw error;
          outcome = error.name;
        }
        outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
      }
      return outcomes;
    },

    /** Wrong requests and arguments: the error of each. */
    async faults(task) {
      const bytes = await read(task.model);
      const model = await api.load(bytes);
      const last = Object.keys(task.inputs).at(-1); // is read after the first
      const changed = (action, other = [1]) => model.predict({ ...request(task.inputs), [task.name]: computed(() => action(other)), [last]: other });
      const attempts = {
        noObject: () => model.predict([1, 2]),
        nothing: () => model.predict(null),
        missing: () => model.predict({}),
        unknown: () => model.predict({ ...request(task.inputs), other: [1] }),
        fraction: () => model.predict({ ...request(task.inputs), [task.name]: [1.5] }),
        text: () => model.predict({ ...request(task.inputs), [task.name]: ["1"] }),
        unsafe: () => model.predict({ ...request(task.inputs), [task.name]: [2 ** 53] }),
        wide: () => model.predict({ ...request(task.inputs), [task.name]: [2n ** 64n] }),
        rows: () => model.predict({ ...request(task.inputs), [task.name]: [1, 2, 3, 4, 5] }),
        empty: () => model.predict(Object.fromEntries(Object.keys(task.inputs).map((name) => [name, []]))),
        scalar: () => model.predict({ ...request(task.inputs), [task.name]: 7 }),
        both: () => model.rank(request(task.inputs), request(task.inputs)),
        noCandidates: () => model.rank(request(task.inputs), {}),
        huge: () => model.predict(Object.fromEntries(Object.keys(task.inputs).map((name) => [name, { length: 1e9 }]))),
        rounded: () => model.predict({ ...request(task.inputs), [task.name]: Float32Array.of(2 ** 24 + 1) }),
        grown: () => changed((other) => other.push(1)),
        shrunk: () => changed((other) => other.pop()),
        detached: () => changed((other) => structuredClone(other, { transfer: [other.buffer] }), new BigInt64Array(1)),
        hole: () => model.predict({ ...request(task.inputs), [task.name]: new Array(1) }),
        source: () => api.load(42),
        options: () => api.load(bytes, null),
        closes: () => model.predict({ ...request(task.inputs), [task.name]: computed(() => model.close()) }),
        grows: () => model.predict({ ...request(task.inputs), [task.name]: computed(() => model.encode(task.name, [1])) }),
        absent: () => api.load("no-such-file.odm"),
        noModel: () => api.load(new Uint8Array([1, 2, 3])),
        noEngine: () => api.load(bytes, { wasm: 3 }),
        closed: () => {
          model.close();
          model.close();
          model.predict(request(task.inputs));
        },
      };
      const said = {};
      for (const [name, attempt] of Object.entries(attempts)) {
        try {
          await attempt();
          said[name] = "no error";
        } catch (error) {
          said[name] = `${error.name}: ${error.message}`;
        }
      }
      return said;
    },

    /** The same model opened again and again: memory must not grow. */
    async loads(task) {
      const bytes = await read(task.model);
      const held = [];
      for (let i = 0; i < task.count; i++) {
        const model = await api.load(bytes);
        model.predict(request(task.inputs));
        held.push(model.memoryBytes);
        model.close();
      }
      return { first: held[0], most: Math.max(...held), last: held.at(-1) };
    },
  };
}

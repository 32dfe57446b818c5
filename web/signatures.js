/**
 * signatures.js: decides whether the set of files that a model belongs to may be used (docs/signing.md).
 *
 * ondevice.js loads it where `load` is given `keys`. The work is done by the C verifier, as WebAssembly: the Web
 * Cryptography API has Ed25519 in some browsers only, and in none where a page comes without TLS.
 */

import { FileFormatError, InputError, MemoryError, OnDeviceError, TrustError, UnsupportedError, bytesOf, isPath, kindOf, moduleOf } from "./sources.js";

const FAULTS = [null, InputError, FileFormatError, UnsupportedError, MemoryError, OnDeviceError, TrustError];
const PIECE = 1 << 20; // bytes of a file that are hashed at once
const MOST_DOCUMENT = 1 << 20; // bytes of a signed document; the C verifier has the same limit
const MOST_NAME = 1024; // bytes of a file's name
const MOST_ROOTS = 1000; // that replace one another
const KEY_BYTES = 32;
// A public key as PEM (RFC 8410) is this, before its 32 bytes.
const KEY_PREFIX = "302a300506032b6570032100";
const PEM = /-----BEGIN PUBLIC KEY-----\r?\n([A-Za-z0-9+/=\r\n]+)-----END PUBLIC KEY-----/g;

/** The verifier in memory of its own. */
export class Verifier {
  #engine;
  #memory;

  constructor(instance) {
    this.#engine = instance.exports;
    this.#memory = instance.exports.memory;
    this.#engine.reset();
  }

  /** @param source of signatures.wasm: an address, bytes or a compiled module; by default the file beside this one */
  static async open(source = new URL("./signatures.wasm", import.meta.url)) {
    const instance = await WebAssembly.instantiate(await moduleOf(source), {});
    if (!instance.exports.open_manifest) throw new FileFormatError("the verifier: a WebAssembly module of something else");
    return new Verifier(instance);
  }

  /** Whether an Ed25519 signature (64 bytes) of a message is that of a public key (32 bytes). */
  verify(signature, message, key) {
    if (signature.length !== 64 || key.length !== KEY_BYTES) return false;
    return Boolean(this.#engine.verify(this.#put(signature), this.#put(message), message.length, this.#put(key)));
  }

  /** Trust one of several keys: one of all that are given must have signed. */
  trustKey(key) {
    this.#check(this.#engine.add_key(this.#put(key)), "keys");
  }

  /** Trust whom a root document names; `replaces`: of the one that follows on the last. */
  trustRoot(text, replaces) {
    this.#check(this.#engine.add_root(this.#document(text, "the root"), text.length, replaces ? 1 : 0), "the root");
  }

  /** Refuse a root that has expired. */
  checkRoot(now) {
    this.#check(this.#engine.check_root(now), "the root");
  }

  /** Read a manifest that is not older than a set that was used, nor another one of its version: its own identity. */
  openManifest(text, seen, now) {
    const place = this.#document(text, "manifest.json");
    const sha256 = seen.sha256 ? this.#put(bytesOfHex(seen.sha256)) : 0;
    this.#check(this.#engine.open_manifest(place, text.length, seen.version, sha256, now), "manifest.json");
    return Object.freeze({ version: this.#engine.manifest_version(), sha256: this.#digest(this.#engine.manifest_sha256()) });
  }

  /** Refuse bytes that are not the file of a name in the manifest. */
  checkFile(name, bytes) {
    const text = new TextEncoder().encode(name);
    if (text.includes(0) || text.length > MOST_NAME) throw new InputError("name: expected the name of a file");
    this.#check(this.#engine.find_file(this.#put(new Uint8Array([...text, 0]))), "manifest.json");
    this.#add(bytes);
    this.#check(this.#engine.check_file(), "manifest.json");
  }

  /** SHA-256 of bytes, as hexadecimal text. */
  sha256(bytes) {
    this.#engine.hash_start();
    this.#add(bytes);
    return this.#digest(this.#engine.hash_end());
  }

  #digest(place) {
    return hexOf(new Uint8Array(this.#memory.buffer, place, 32));
  }

  #add(bytes) {
    const place = this.#room(Math.min(bytes.length, PIECE));
    for (let at = 0; at < bytes.length; at += PIECE) {
      const piece = bytes.subarray(at, at + PIECE);
      new Uint8Array(this.#memory.buffer).set(piece, place);
      this.#engine.hash_add(place, piece.length);
    }
  }

  #document(text, what) {
    if (text.length > MOST_DOCUMENT) throw new FileFormatError(`${what}: a signed document has at most ${MOST_DOCUMENT} bytes`);
    return this.#put(text);
  }

  #put(bytes) {
    const place = this.#room(bytes.length);
    new Uint8Array(this.#memory.buffer).set(bytes, place);
    return place;
  }

  #room(size) {
    const place = this.#engine.allocate(size);
    if (!place) throw new MemoryError("no memory to check signatures");
    return place;
  }

  #check(status, where) {
    if (!status) return;
    const bytes = new Uint8Array(this.#memory.buffer);
    const at = this.#engine.error_text();
    const text = new TextDecoder().decode(bytes.subarray(at, bytes.indexOf(0, at)));
    throw new FAULTS[status](`${where}: ${text}`);
  }
}

/**
 * Check that bytes are a file of a signed set.
 * @param bytes of the file, which nobody else can change
 * @param source where they came from
 * @param options of `load`
 * @returns version and sha256 of the set
 */
export async function checkSigned(bytes, source, { keys, manifest, name, roots = [], seen, now = new Date(), verifier }) {
  const address = addressOf(source);
  const seconds = Math.floor((now instanceof Date ? now.getTime() : NaN) / 1000);
  if (!Number.isFinite(seconds)) throw new InputError("now: expected a Date");
  const before = seenSet(seen);
  if (!Array.isArray(roots) || roots.length > MOST_ROOTS) throw new InputError(`roots: expected an array of at most ${MOST_ROOTS} documents`);
  const file = name ?? address?.file;
  if (typeof file !== "string") throw new InputError("name: a model that comes as bytes needs the name it was signed by");
  if (manifest === undefined && !address) throw new InputError("manifest: a model that comes as bytes needs its manifest");
  const [checker, text, ...following] = await Promise.all([
    Verifier.open(verifier),
    bytesOf(manifest ?? address.manifest, "the manifest"),
    ...roots.map((root) => bytesOf(root, "a root")),
  ]);
  trust(checker, keys, following, seconds);
  const opened = checker.openManifest(text, before, seconds);
  checker.checkFile(file, bytes);
  return opened;
}

/** The newest set that was used, as `signedSet` gave it; version 0 where there is none. */
function seenSet(seen) {
  if (seen === undefined || seen === null) return { version: 0 };
  if (typeof seen !== "object") throw new InputError(`seen: expected what signedSet gave, or null, got ${kindOf(seen)}`);
  const { version, sha256 } = seen;
  if (!Number.isSafeInteger(version) || version < 0)
    throw new InputError(`seen.version: expected a whole number from 0 on, got ${typeof version === "number" ? version : kindOf(version)}`);
  if (sha256 !== undefined && !(typeof sha256 === "string" && /^[0-9a-f]{64}$/.test(sha256)))
    throw new InputError("seen.sha256: expected 64 hexadecimal digits");
  return { version, sha256 };
}

function hexOf(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function bytesOfHex(text) {
  return Uint8Array.from(text.match(/../g), (pair) => parseInt(pair, 16));
}

/** Trust what a caller gave: a root document, or keys. */
function trust(checker, keys, following, seconds) {
  const document = rootOf(keys);
  if (document) {
    checker.trustRoot(document, false);
    for (const root of following) checker.trustRoot(root, true);
    checker.checkRoot(seconds);
    return;
  }
  if (following.length) throw new InputError("roots: they replace a root document, but keys are given");
  const listed = Array.isArray(keys) ? keys : [keys];
  if (!listed.length) throw new InputError("keys: expected at least one public key, got none");
  for (const key of listed.flatMap(keysOf)) checker.trustKey(key);
}

/** The bytes of a root document, or null for anything else. */
function rootOf(keys) {
  if (typeof keys === "string" && keys.startsWith("{")) return new TextEncoder().encode(keys);
  return keys instanceof Uint8Array && keys.length !== KEY_BYTES && keys[0] === 0x7b ? keys : null;
}

/** The keys, of 32 bytes each, of a PEM text or of bytes. */
function keysOf(key) {
  if (key instanceof Uint8Array && key.length === KEY_BYTES) return [key];
  if (typeof key !== "string") throw new InputError(`keys: expected PEM texts, 32 bytes or a root document, got ${kindOf(key)}`);
  const blocks = [...key.matchAll(PEM)];
  if (!blocks.length || key.replace(PEM, "").trim()) throw new FileFormatError("keys: expected a public key as PEM, and nothing else");
  return blocks.map(([, block]) => {
    let bytes;
    try {
      bytes = Uint8Array.from(atob(block.replace(/\s/g, "")), (letter) => letter.charCodeAt(0));
    } catch {
      throw new FileFormatError("keys: a public key is not valid base64");
    }
    if (hexOf(bytes.subarray(0, -KEY_BYTES)) !== KEY_PREFIX) throw new FileFormatError("keys: a public key of another kind than Ed25519");
    return bytes.subarray(-KEY_BYTES);
  });
}

/** The name of a file at an address, and the address of the manifest beside it; null for bytes. */
function addressOf(source) {
  if (typeof source !== "string" && !(source instanceof URL)) return null;
  const text = String(source);
  if (isPath(text)) {
    const slash = Math.max(text.lastIndexOf("/"), text.lastIndexOf("\\"));
    return { file: text.slice(slash + 1), manifest: `${text.slice(0, slash + 1)}manifest.json` };
  }
  const path = text.replace(/[?#].*$/s, "");
  const folder = path.slice(0, path.lastIndexOf("/") + 1);
  try {
    return { file: decodeURIComponent(path.slice(folder.length)), manifest: `${folder}manifest.json` };
  } catch {
    throw new InputError(`${text}: not a valid address`);
  }
}

/** sources.js: reads files and WebAssembly modules from wherever they are, and the errors of this package. */

/** Base of all errors that this module throws on purpose. */
export class OnDeviceError extends Error {
  constructor(message) {
    super(message);
    this.name = new.target.name;
  }
}
/** A request has a wrong name, shape, type or value. */
export class InputError extends OnDeviceError {}
/** A file is damaged, truncated, hostile or of another format or version. */
export class FileFormatError extends OnDeviceError {}
/** A valid file that this engine cannot run. */
export class UnsupportedError extends OnDeviceError {}
/** Memory ended. */
export class MemoryError extends OnDeviceError {}
/** A file is not signed by a trusted key, has expired, or is older than what was seen. */
export class TrustError extends OnDeviceError {}

const compiled = new Map(); // by address: a promise of a WebAssembly.Module

/** The bytes of a source; errors call it `what`. */
export async function bytesOf(source, what) {
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  if (ArrayBuffer.isView(source)) return new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  if (typeof Blob !== "undefined" && source instanceof Blob) return bytesOfBody(source, what);
  if (typeof Response !== "undefined" && source instanceof Response) return bytesOfResponse(source, what);
  if (typeof source !== "string" && !(source instanceof URL))
    throw new InputError(`${what}: expected an address or bytes, got ${kindOf(source)}`);
  const address = String(source);
  if (isPath(address) || (isNode() && address.startsWith("file:"))) {
    const { readFile } = await import("node:fs/promises");
    try {
      return new Uint8Array(await readFile(address.startsWith("file:") ? new URL(address) : address));
    } catch (error) {
      throw new FileFormatError(`${address}: cannot be read: ${error.message}`);
    }
  }
  let response;
  try {
    response = await fetch(source);
  } catch (error) {
    throw new FileFormatError(`${address}: cannot be fetched: ${error.message}`);
  }
  return bytesOfResponse(response, address);
}

async function bytesOfResponse(response, what) {
  if (!response.ok) throw new FileFormatError(`${what}: the server answered ${response.status}`);
  return bytesOfBody(response, what);
}

async function bytesOfBody(body, what) {
  try {
    return new Uint8Array(await body.arrayBuffer());
  } catch (error) {
    // a connection that broke, a file that was deleted, a body that was read before
    throw new FileFormatError(`${what}: cannot be read: ${error.message}`);
  }
}

function isNode() {
  return typeof process !== "undefined" && Boolean(process.versions?.node);
}

/** Whether an address is a path of the file system. */
export function isPath(address) {
  return isNode() && !/^[a-z][a-z0-9+.-]+:/i.test(address);
}

/** A compiled module; one of an address is kept. */
export async function moduleOf(source) {
  if (source instanceof WebAssembly.Module) return source;
  if (typeof source !== "string" && !(source instanceof URL))
    return compiledFrom(await bytesOf(source, "the engine"), "the engine");
  const address = String(source);
  if (!compiled.has(address)) {
    const promise = bytesOf(source, "the engine").then((bytes) => compiledFrom(bytes, address));
    compiled.set(address, promise);
    promise.catch(() => compiled.delete(address)); // the next load may find it
  }
  return compiled.get(address);
}

async function compiledFrom(bytes, what) {
  try {
    // a copy where the bytes are shared, which WebAssembly refuses
    return await WebAssembly.compile(bytes.buffer instanceof ArrayBuffer ? bytes : bytes.slice());
  } catch (error) {
    throw new FileFormatError(`${what}: no WebAssembly module: ${error.message}`);
  }
}

export function kindOf(value) {
  if (value === null) return "null";
  if (typeof value !== "object") return typeof value;
  return value.constructor?.name ?? "object";
}

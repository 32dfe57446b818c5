/** Types of ondevice.js. */

export class OnDeviceError extends Error {}
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

/** An address (in Node also a path), or bytes; views of a SharedArrayBuffer are copied. */
export type Source = string | URL | ArrayBuffer | ArrayBufferView | Blob | Response;

/** A signed set of files. It is plain data: JSON keeps it. */
export interface SignedSet {
  readonly version: number;
  /** Of what was signed, in hexadecimal; without it a set is known by its version only. */
  readonly sha256?: string;
}

export interface LoadOptions {
  /** The engine: an address, bytes or a compiled module; by default the file beside ondevice.js. */
  wasm?: Source | WebAssembly.Module;
  /**
   * Public keys as PEM or as 32 bytes, one of which must have signed the set of files that the model belongs to;
   * or a root document, as text or bytes. Without keys nothing is checked, and the options below are refused.
   */
  keys?: string | Uint8Array | ReadonlyArray<string | Uint8Array>;
  /** The manifest of the set; by default manifest.json beside the model's address. */
  manifest?: Source;
  /** The model's file name in the manifest; by default that of its address. */
  name?: string;
  /** Root documents that replace the one in `keys`, in order. */
  roots?: ReadonlyArray<Source>;
  /** The newest `signedSet` that this device has used: older sets, and another one of its version, are refused. */
  seen?: SignedSet | null;
  /** By default the device's clock. */
  now?: Date;
  /** The verifier: an address, bytes or a compiled module; by default signatures.wasm beside signatures.js. */
  verifier?: Source | WebAssembly.Module;
}

/** IDs: Numbers up to 2^53, BigInts of 64 bits, or a typed array; nested for inputs of several values a row. */
export type Values = ArrayLike<number> | ArrayLike<bigint> | ReadonlyArray<Values>;
export type Inputs = Record<string, Values>;

/** Raw values as in a log: null or undefined is "no value"; lists are sequences. */
export type RawValue = string | number | bigint | boolean | null | undefined;
export type RawInputs = Record<string, ReadonlyArray<RawValue | ReadonlyArray<RawValue>> | ArrayLike<number>>;

/** One score a row; of a model with several outputs, an object of them. */
export type Scores = Float32Array | Record<string, Float32Array>;

export interface InputDescription {
  name: string;
  dtype: "int64" | "float32";
  /** Sizes after the rows, as the model is opened now. */
  shape: number[];
  /** Values in a row. */
  size: number;
}

export function load(source: Source, options?: LoadOptions): Promise<Model>;

/** Whether this JavaScript engine has 128-bit vectors; without them a slower module is used. */
export function hasVectors(): boolean;

export interface Model {
  readonly inputs: InputDescription[];
  readonly outputs: string[];
  /** Names of the fields that take raw values. */
  readonly features: string[];
  /** The file's description, parsed. */
  readonly info: unknown;
  readonly tables: { name: string; rows: number; dim: number; bytes: number }[];
  readonly kernels: string;
  readonly memoryBytes: number;
  /** The signed set that the model was loaded from; null where no keys were given. */
  readonly signedSet: SignedSet | null;
  predict(inputs: Inputs): Scores;
  predict(inputs: RawInputs, options: { raw: true }): Scores;
  rank(context: Inputs, candidates: Inputs): Scores;
  rank(context: RawInputs, candidates: RawInputs, options: { raw: true }): Scores;
  /**
   * Compare the model with the answers of its source that travel in the file. `difference` is the largest, in
   * units of the output's scale, as `ondevice verify` computes it; `rows` is 0 where the file has no answers.
   */
  verify(): { rows: number; difference: number; tolerance: number; passed: boolean };
  /** The IDs of a field's raw values, one after another. */
  encode(name: string, values: RawInputs[string]): BigInt64Array;
  /** Give the memory back. The model cannot be used afterwards. */
  close(): void;
}

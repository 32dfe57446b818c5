/* ondevice.h: the public interface of the native engine: open, describe, run, rank, close.
 *
 * A model is immutable once opened: any number of threads may use it at once. A session holds the
 * scratch memory of one running request: one thread at a time. Nothing is allocated after
 * od_session_open. Every function that can fail returns a status and fills an od_error.
 */
#ifndef ONDEVICE_H
#define ONDEVICE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef OD_API
#if defined(__GNUC__)
#define OD_API __attribute__((visibility("default")))
#else
#define OD_API
#endif
#endif

#define OD_MAX_RANK 8

typedef enum {
  OD_OK = 0,
  OD_E_INPUT = 1,       /* a request the model rejects, such as an ID out of range */
  OD_E_FORMAT = 2,      /* a damaged, hostile or unknown file */
  OD_E_UNSUPPORTED = 3, /* a valid file that this engine cannot run */
  OD_E_MEMORY = 4,      /* an allocation failed */
  OD_E_SYSTEM = 5,      /* the operating system refused (file missing, mapping failed) */
  OD_E_UNTRUSTED = 6,   /* not signed as it must be, expired, or too old (ondevice_update.h) */
  OD_E_LOCK = 7         /* the system does not let the model be locked in memory */
} od_status;

typedef struct {
  od_status status;
  char text[248]; /* one line of UTF-8, zero-terminated */
} od_error;

/* Where memory comes from. `allocate` returns memory aligned to 16 bytes, or NULL. */
typedef struct {
  void *(*allocate)(void *user, size_t size);
  void (*release)(void *user, void *memory);
  void *user;
} od_allocator;

typedef struct {
  const char *name;
  uint32_t size;
} od_axis_size;

typedef struct {
  /* NULL: the fastest kernels this processor has. Otherwise one of "portable", "avx2",
   * "avx512vnni", "avx512bf16", "neon", "neon-dotprod", "neon-i8mm"; OD_E_UNSUPPORTED if it lacks them. */
  const char *kernels;
  /* NULL: malloc and free (not available in a freestanding build). */
  const od_allocator *allocator;
  /* 1: check every byte of the file; 0: the header and all sizes; -1: every byte of files up to
   * 8 MiB. Whatever is chosen, no file makes the engine read or write out of bounds. */
  int full_check;
  /* Sizes of free axes beside the rows, such as the length of a history, by their names in the
   * description. Each must be given: OD_E_UNSUPPORTED otherwise. They hold for the opened model. */
  const od_axis_size *sizes;
  size_t size_count;
  /* How dense layers stored in f32 or f16 compute: NULL: in float32; "bf16": with weights, rounded when
   * the model is opened, and inputs in bfloat16, and sums in float32 (docs/native.md). */
  const char *dense;
  /* 1: a copy of the whole file in memory that the system never pages out, in huge pages where it has
   * them; the file itself is read once. OD_E_LOCK where the system refuses; not in a freestanding
   * build. A child after fork() has the memory, but not locked. */
  int lock;
} od_options;

/* One input or output. dims[0] is 0: the number of rows, free for every request. */
typedef struct {
  const char *name; /* UTF-8, zero-terminated */
  uint32_t is_float; /* 1: float32, as all outputs are; 0: int64 */
  uint32_t rank;
  uint32_t dims[OD_MAX_RANK];
  uint32_t row_size; /* elements in one row: the product of dims[1...] */
} od_tensor;

typedef struct od_model od_model;
typedef struct od_session od_session;

/* Open a model in memory, which must stay unchanged until od_close and be aligned to 4 bytes, as
 * an asset inside an Android package is; 64 bytes are best for speed. `options` and `error` may be
 * NULL. */
OD_API od_status od_open_memory(const void *data, size_t size, const od_options *options,
                                od_model **model, od_error *error);

#ifndef ONDEVICE_FREESTANDING
/* Open a model file: up to 8 MiB it is read, a larger one is mapped. Where a mapped file is truncated or
 * overwritten, requests fail with OD_E_FORMAT from then on (platform/mapped.c installs a handler of
 * SIGBUS for this, which passes on what is not its own); replaced by a rename, it stays. */
OD_API od_status od_open_path(const char *path, const od_options *options, od_model **model,
                              od_error *error);
#endif

/* Open a model's memory again, with other options, such as other sizes. Its bytes are not checked
 * again. `model` must be closed after the other. */
OD_API od_status od_open_again(const od_model *model, const od_options *options, od_model **again,
                               od_error *error);

/* Compare every byte of an open model with the checksums in its file, and every index with its
 * records, as full_check does when a model is opened; other threads may use the model meanwhile.
 * OD_E_FORMAT: it is damaged, so no score of it can be trusted; close it. */
OD_API od_status od_check(const od_model *model, od_error *error);

/* Release a model. All its sessions must be closed before. NULL is allowed. */
OD_API void od_close(od_model *model);

OD_API size_t od_input_count(const od_model *model);
OD_API const od_tensor *od_input(const od_model *model, size_t index);
OD_API size_t od_output_count(const od_model *model);
OD_API const od_tensor *od_output(const od_model *model, size_t index);

/* The model's description: inputs, features, test vectors. It is JSON and, in files of version 3,
 * a zero byte and the arrays that the JSON refers to (docs/format.md). */
OD_API const char *od_info(const od_model *model, size_t *size);

/* Name of the kernels in use. */
OD_API const char *od_kernels_in_use(const od_model *model);

/* Names of the kernels this processor can run, best first; NULL past the last. */
OD_API const char *od_kernels_available(size_t index);

/* Make the scratch memory for one thread at a time. */
OD_API od_status od_session_open(const od_model *model, od_session **session, od_error *error);
OD_API void od_session_close(od_session *session);

/* Score `rows` rows.
 * inputs[i]: values of input i, int64 or float32 (is_float), contiguous [rows, dims[1...]].
 * outputs[i]: where output i goes, float32 [rows, dims[1...]], or NULL to skip it. */
OD_API od_status od_run(od_session *session, const void *const *inputs, size_t rows,
                        float *const *outputs, od_error *error);

/* Score `rows` candidates for one context: is_context[i] is 1 where inputs[i] holds a single row,
 * the same for all candidates. Work that depends only on context inputs is done once. */
OD_API od_status od_rank(od_session *session, const void *const *inputs,
                         const uint8_t *is_context, size_t rows, float *const *outputs,
                         od_error *error);

#ifndef ONDEVICE_FREESTANDING
/* Threads that share the rows of large requests (platform/threads.c). A pool serves one request at a
 * time, and its threads sleep between requests. In a child after fork() it works with the calling
 * thread only. Scores are the same to the bit for any number of threads. */
typedef struct od_pool od_pool;

/* A thread gets at least so many rows: waking one takes some 10 us, in which a small network scores
 * about ten rows, so that a tenth of its time is lost at the most. */
#define OD_POOL_ROWS 128

/* `threads` counts the caller's: 1..1024. The model must stay open until od_pool_close. */
OD_API od_status od_pool_open(const od_model *model, size_t threads, od_pool **pool,
                              od_error *error);
OD_API void od_pool_close(od_pool *pool);

/* Score `rows` rows as od_run does or, where `is_context` is not NULL, as od_rank does. */
OD_API od_status od_pool_run(od_pool *pool, const void *const *inputs, const uint8_t *is_context,
                             size_t rows, float *const *outputs, od_error *error);
#endif

/* Where time goes. `time` is in the unit of the caller's clock, `bytes` what the operator reads and
 * writes: operands and results in full, for lookups the records of mean length. */
typedef struct {
  int64_t node; /* index into the file's plan; -1: all lookups, which run together */
  uint64_t time, bytes;
} od_operator;

typedef struct {
  uint64_t (*clock)(void);
  od_operator *operators; /* od_profile_size() of them, in running order */
} od_profile;

OD_API size_t od_profile_size(const od_model *model);

/* Set the profile's operators to zero, and from now on add to them what this session's requests
 * take. NULL: stop; a session without a profile never reads a clock. */
OD_API void od_session_profile(od_session *session, od_profile *profile);

/* XXH64 of bytes: how raw strings (UTF-8) and integers (8 little-endian bytes) become IDs. */
OD_API uint64_t od_hash(const void *data, size_t size, uint64_t seed);

#ifdef __cplusplus
}
#endif
#endif

/* limits.h: every limit of the engine.
 *
 * What goes beyond one is refused with a message that says so.
 * The number of axes, OD_MAX_RANK, is in ondevice.h: it is part of the public interface. Limits of
 * the file format are those of the Python package, which tests/native compares with these.
 */
#ifndef ONDEVICE_LIMITS_H
#define ONDEVICE_LIMITS_H

/* A limit as text, for messages: plain decimal numbers only. */
#define OD_QUOTED(...) #__VA_ARGS__
#define OD_DIGITS(limit) OD_QUOTED(limit)

/* Container and JSON */
#define OD_MAX_HEADER_BYTES 100000000 /* the limit of the safetensors library */
#define OD_MAX_JSON_DEPTH 32
#define OD_MAX_JSON_VALUES 1048576
#define OD_MAX_CHECKED_MEMBERS 32 /* of a JSON object whose names the parser compares */
#define OD_MAX_PLAN_BYTES 33554432 /* of a plan or an index, unpacked */
#define OD_MAX_ARRAYS 131072
#define OD_MAX_LOAD_BYTES 536870912 /* that opening a file takes, beside as many as the file has */
#define OD_FULL_CHECK_BYTES 8388608 /* files up to this size are read whole when they are opened */

/* Plans */
#define OD_MAX_NODES 65536
#define OD_MAX_INPUTS 1024 /* and outputs */
#define OD_MAX_CONSTANT_ELEMENTS 16777216 /* of all values computed when a file is opened */
#define OD_MAX_CONSTANT_WORK 67108864 /* steps that computing them takes */
#define OD_MAX_ROW_WORK 1073741824 /* steps that a row of a request takes */
#define OD_MAX_ROW_ELEMENTS 16777216 /* of a value: in a row, or of a constant in all */
#define OD_MAX_CONSTANT_INPUTS 64 /* of a node that is computed when the file is opened */

/* Tables and lookups */
#define OD_MAX_ROWS 2147483647 /* a row number is an int32 in other formats */
#define OD_MAX_DIM 1024
#define OD_MAX_SECTIONS 16 /* of a table */
#define OD_MAX_LEVEL_BITS 4 /* of a code with fitted levels */
#define OD_MAX_BLOCKS 64 /* of a code, or residues of a hash */
#define OD_MAX_CODE_BITS 64
#define OD_MAX_HASHES 8 /* cells of a retrieval structure that an ID reads */
#define OD_MAX_FINGERPRINTS 8 /* columns of a cell */
#define OD_HIGH_BITS 31 /* of a mixed code */
#define OD_TAIL_BYTES 64 /* behind a table's records, so that vectors may read on */

/* Tree ensembles */
#define OD_MAX_TREE_NODES 4194304
#define OD_MAX_TREE_DEPTH 256 /* branches between a root and a leaf */

/* Dense layers */
#define OD_MAX_DENSE_FEATURES 65528
#define OD_MAX_DENSE_UNITS 65536
#define OD_UNIT_BLOCK 16 /* units are padded to a multiple */
#define OD_FEATURE_GROUP 4 /* features of q8 weights likewise */

/* Sessions */
#define OD_MAX_PLACED_VALUES 4096 /* with memory of their own: finding places is quadratic */
#define OD_MAX_PLACINGS 8 /* passes over the values for a place between others */
#define OD_MAX_SESSION_BYTES 1073741824
#define OD_MIN_CHUNK_ROWS 8
#define OD_MAX_CHUNK_ROWS 64
#define OD_CHUNK_BYTES 393216 /* of a chunk's rows: they stay in a second-level cache */

/* The feature specification */
#define OD_MAX_FEATURES 4096
#define OD_MAX_VOCABULARY 33554432 /* values of all vocabularies of a file */
#define OD_MAX_LENGTH 4096 /* IDs of a sequence */

/* Signed documents */
#define OD_MAX_DELTA_BYTES 65536
#define OD_MAX_DELTA_GROWTH 8
#define OD_MAX_DELTA_ADDED 67108864
#define OD_MAX_MANIFEST_BYTES 1048576
#define OD_MAX_MANIFEST_FILES 1024
#define OD_MAX_MANIFEST_SIGNATURES 16
#define OD_MAX_SIGNATURES_BYTES 16384
#define OD_MAX_MANIFEST_VERSION 9007199254740991

/* The Python module */
#define OD_MAX_THREADS 1024 /* of a pool */

#endif

"""Every limit of the file format and its engines, with its unit and its reason.

Where the C engine has a limit too, it is OD_NAME in ondevice/native/core/limits.h (MAX_RANK in
include/ondevice.h), and a test compares the two: both readers must refuse the same files.
"""

from __future__ import annotations

# Rows of a table. Row numbers travel as int32 in TFLite.
MAX_ROWS = 2**31 - 1

# Values of an embedding row.
MAX_DIM = 1024

# Sections of a table: consecutive rows with a codec of their own. A lookup searches them in order.
MAX_SECTIONS = 16

# Bits of a code with fitted levels: a codebook takes 4 * 2**bits bytes a column.
MAX_LEVEL_BITS = 4

# Rows that one ID reads: a code of 64 bits has at most one block a bit. The C kernels keep them on
# the stack.
MAX_BLOCKS = 64

# Cells of a retrieval structure that one ID reads, and columns of fingerprints in a cell.
MAX_HASHES = 8
MAX_FINGERPRINTS = 8

# Nodes of a plan; the C engine sizes arrays by them at load.
MAX_NODES = 65_536

# Inputs of a model, and outputs.
MAX_INPUTS = 1024

# Arrays of a file, those without a header entry among them.
MAX_ARRAYS = 131_072

# Values of one vocabulary: each takes 8 bytes when it is unpacked.
MAX_VOCABULARY = 2**25

# Elements of all values that are computed when a file is opened, and the steps (elements read or
# written, products summed up) that computing them takes: a small file must not take long to open.
MAX_CONSTANT_ELEMENTS = 2**24
MAX_CONSTANT_WORK = 2**26

# Such steps for a row of a request, and bytes of all values that are computed for it.
MAX_ROW_WORK = 2**30
MAX_SESSION_BYTES = 2**30

# Bytes that the C engine takes to open a file, beside as many as the file has.
MAX_LOAD_BYTES = 2**29

# Inputs of a dense layer. The int32 sum of products of 8 bits stays exact.
MAX_DENSE_FEATURES = 65_528

# Outputs of a dense layer.
MAX_DENSE_UNITS = 65_536

# Elements that one row of a request has in any value of a plan, and elements of a computed
# constant: a small file must not reserve gigabytes.
MAX_ROW_ELEMENTS = 2**24

# Nodes of a tree ensemble, leaves included; the native file takes 12 bytes for each.
MAX_TREE_NODES = 2**22

# Branches between a tree's root and a leaf: a request does not take longer.
MAX_TREE_DEPTH = 256

# Threads that share a request, and requests at once: no processor has more cores.
MAX_THREADS = 1024

# Axes of an array.
MAX_RANK = 8

# Levels of nesting in the JSON of a native file.
MAX_JSON_DEPTH = 32

# Values in the JSON of a native file.
MAX_JSON_VALUES = 2**20

# Bytes of a container's header: the limit of the safetensors library; and of a description.
MAX_HEADER_BYTES = 100_000_000

# Bytes of a plan and of an index of arrays, unpacked.
MAX_PLAN_BYTES = 2**25

# Values of a sequence field: a history of a user, not a text.
MAX_LENGTH = 4096

# Elements of all tensors that a .tflite file computes for its stored shapes, together. The runtimes
# reserve them when they open the file.
MAX_TFLITE_ELEMENTS = 2**28

# Nodes of an .onnx file with every function in the place of its calls, and levels to which its
# functions and graphs nest: functions that call functions twice double the nodes with every level.
MAX_ONNX_NODES = 131_072
MAX_ONNX_DEPTH = 32

# Bytes of memory of a process that opens an .onnx or .tflite file for a command: for Python and the
# runtimes, and for each byte of the file. `verify` holds four sessions of a file, and ONNX Runtime
# up to three copies of it in each; a conversion holds its weights as float32 a few times.
CHILD_BASE_BYTES = 2**32
CHILD_BYTES_PER_BYTE = 16

# Bytes that the numpy engine unpacks from dense layers at load, for each byte of the file: int8
# codes become float64. Layers that share weights share the unpacked ones.
MAX_UNPACKED_PER_BYTE = 8

# A manifest of a set of model files: a set has some files, each of at most 400 bytes there.
MAX_MANIFEST_BYTES = 2**20
MAX_MANIFEST_FILES = 1024
MAX_MANIFEST_SIGNATURES = 16
MAX_SIGNATURES_BYTES = 16_384  # of a signed document: they are read before anything is known
MAX_MANIFEST_VERSION = 2**53 - 1  # exact in every JSON library

# Operations of a block of a delta file, and their data: whoever applies it holds one block.
MAX_DELTA_BYTES = 65_536

# The file that a delta makes: this many times the old one, and so many bytes more. A small delta
# must not fill a disk.
MAX_DELTA_GROWTH = 8
MAX_DELTA_ADDED = 2**26

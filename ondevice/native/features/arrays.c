/* arrays.c: reads arrays that follow a description's JSON: numbers, and hashes in Elias-Fano code. */
#include "features/arrays.h"

static od_status bad_array(od_error *error) {
  return od_fail(error, OD_E_FORMAT,
                 "features: an array lacks dtype, shape, count or place, or leaves the file's");
}

/* The `size` bytes that an item refers to; NULL: they are not there. */
static const uint8_t *part(const od_json *item, od_attached attached, uint64_t size) {
  int64_t at;
  if (!od_json_int(od_json_member(item, "at"), 0, INT64_MAX, &at) ||
      (uint64_t)at > attached.size || size > attached.size - (uint64_t)at)
    return NULL;
  return attached.data + at;
}

typedef enum { U8, U16, U32, F32, F64, DTYPES } number_dtype;
static const char *const NAMES[DTYPES] = {"U8", "U16", "U32", "F32", "F64"};
static const uint8_t SIZES[DTYPES] = {1, 2, 4, 4, 8};

static double number_at(const uint8_t *place, number_dtype dtype) {
  float single;
  double number;
  switch (dtype) {
    case U8: return *place;
    case U16: return od_load16(place);
    case U32: return od_load32(place);
    case F32: __builtin_memcpy(&single, place, sizeof single); return (double)single;
    default: __builtin_memcpy(&number, place, sizeof number); return number;
  }
}

od_status od_attached_doubles(const od_json *item, od_attached attached, od_arena *arena,
                              double **numbers, size_t *count, od_error *error) {
  const od_json *dtype = od_json_member(item, "dtype"), *shape = od_json_member(item, "shape");
  int64_t length;
  unsigned index = 0;
  if (!dtype || dtype->kind != OD_J_TEXT || !shape || shape->kind != OD_J_LIST ||
      shape->size != 1 || !od_json_int(shape->first, 0, INT64_MAX / 8, &length))
    return bad_array(error);
  while (index < DTYPES && !od_equal(NAMES[index], dtype->text)) index++;
  if (index == DTYPES) return bad_array(error);
  const uint8_t *from = part(item, attached, (uint64_t)length * SIZES[index]);
  if (!from) return bad_array(error);
  *count = (size_t)length;
  *numbers = od_take(arena, *count, sizeof **numbers);
  if (!*numbers) return od_fail(error, OD_E_MEMORY, "features: out of memory");
  for (size_t i = 0; i < *count; i++)
    (*numbers)[i] = number_at(from + i * SIZES[index], (number_dtype)index);
  return OD_OK;
}

/* Elias-Fano code: of each number its lowest `low` bits, then a set bit for each at its high bits
 * plus its index. */
typedef struct {
  uint32_t bits, low;
  uint64_t count, low_bytes, places;
} code_layout;

static code_layout layout_of(uint64_t count, uint32_t bits) {
  uint32_t high = 0;
  while (high < bits && count >> (high + 1)) high++;
  code_layout layout = {bits, bits - high, count, 0, count + ((uint64_t)1 << high) - 1};
  layout.low_bytes = (count * layout.low + 7) / 8;
  return layout;
}

static uint64_t bits_at(const uint8_t *code, uint64_t first, uint32_t bits) {
  uint64_t value = 0;
  for (uint32_t done = 0; done < bits;) {
    uint32_t skipped = (uint32_t)(first + done) % 8, step = 8 - skipped;
    if (step > bits - done) step = bits - done;
    uint64_t piece = (uint64_t)(code[(first + done) / 8] >> skipped) & ((1u << step) - 1);
    value |= piece << done;
    done += step;
  }
  return value;
}

/* Decode; 0: not as many set bits as there are numbers. */
static int decode(const uint8_t *code, const code_layout *layout, int64_t *hashes) {
  const uint8_t *high = code + layout->low_bytes;
  uint64_t found = 0;
  for (uint64_t place = 0; place < (layout->places + 7) / 8 * 8; place++) {
    if (!(high[place / 8] >> place % 8 & 1)) continue;
    if (place >= layout->places || found == layout->count) return 0;
    uint64_t number = layout->low < 64 ? (place - found) << layout->low : 0;
    number |= bits_at(code, found * layout->low, layout->low);
    hashes[found++] = (int64_t)(number - ((uint64_t)1 << (layout->bits - 1)));
  }
  return found == layout->count;
}

od_status od_attached_hashes(const od_json *item, uint32_t bits, od_attached attached,
                             od_arena *arena, int64_t **hashes, size_t *count, od_error *error) {
  int64_t length;
  /* a number takes more than a bit, so that more cannot be there, and products do not overflow */
  if (!od_json_int(od_json_member(item, "count"), 0, INT64_MAX / 128, &length) ||
      length > OD_MAX_VOCABULARY || (uint64_t)length / 8 > attached.size)
    return bad_array(error);
  *count = (size_t)length;
  *hashes = od_take(arena, *count, sizeof **hashes);
  if (!*hashes) return od_fail(error, OD_E_MEMORY, "features: out of memory");
  if (!length) return part(item, attached, 0) ? OD_OK : bad_array(error);
  code_layout layout = layout_of((uint64_t)length, bits);
  const uint8_t *code = part(item, attached, layout.low_bytes + (layout.places + 7) / 8);
  if (!code) return bad_array(error);
  if (!decode(code, &layout, *hashes))
    return od_fail(error, OD_E_FORMAT, "features: no Elias-Fano code of %i numbers", length);
  return OD_OK;
}

/* ed25519.c: verifies Ed25519 signatures as RFC 8032, section 5.1.7, says; it signs nothing.
 *
 * The check is the one without cofactor: [S]B - [k]A, encoded, must be the bytes of R, so that a
 * signature has one encoding only. Beyond the RFC, a public key of small order is refused, because
 * some signature under it would fit every message. Nothing is secret, so time may tell anything.
 */
#include "core/base.h"
#include "ondevice_update.h"
#include "update/field.h"
#include "update/sha512.h"

/* A point (X/Z, Y/Z) with T = XY/Z: the RFC's extended coordinates. */
typedef struct {
  field x, y, z, t;
} point;

static const field ONE = {{1}};
static const field D = {{0x135978a3, 0x75eb4dca, 0x4141d8ab, 0x00700a4d, 0x7779e898, 0x8cc74079,
                         0x2b6ffe73, 0x52036cee}};
static const field ROOT_OF_MINUS_1 = {{0x4a0ea0b0, 0xc4ee1b27, 0xad2fe478, 0x2f431806, 0x3dfbd7a7,
                                       0x2b4d0099, 0x4fc1df0b, 0x2b832480}};
/* The order of the base point. */
static const uint32_t L[8] = {0x5cf5d3ed, 0x5812631a, 0xa2f79cd6, 0x14def9de, 0, 0, 0, 0x10000000};
/* The base point's y is 4/5, its x is even. */
static const uint8_t BASE[32] = {0x58, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
                                 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
                                 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66};

/* p + q, also where they are equal (section 5.1.4). */
static point sum(const point *p, const point *q) {
  field a = od_field_multiply(od_field_subtract(p->y, p->x), od_field_subtract(q->y, q->x));
  field b = od_field_multiply(od_field_add(p->y, p->x), od_field_add(q->y, q->x));
  field c = od_field_multiply(od_field_multiply(od_field_add(p->t, p->t), q->t), D);
  field d = od_field_multiply(od_field_add(p->z, p->z), q->z);
  field e = od_field_subtract(b, a), f = od_field_subtract(d, c);
  field g = od_field_add(d, c), h = od_field_add(b, a);
  return (point){od_field_multiply(e, f), od_field_multiply(g, h), od_field_multiply(f, g),
                 od_field_multiply(e, h)};
}

static point doubled(const point *p) {
  field a = od_field_multiply(p->x, p->x), b = od_field_multiply(p->y, p->y);
  field c = od_field_multiply(p->z, p->z), h = od_field_add(a, b), xy = od_field_add(p->x, p->y);
  field e = od_field_subtract(h, od_field_multiply(xy, xy)), g = od_field_subtract(a, b);
  field f = od_field_add(od_field_add(c, c), g);
  return (point){od_field_multiply(e, f), od_field_multiply(g, h), od_field_multiply(f, g),
                 od_field_multiply(e, h)};
}

static void read_words(const uint8_t *from, uint32_t *words, int count) {
  for (int i = 0; i < count; i++)
    words[i] = (uint32_t)from[4 * i] | (uint32_t)from[4 * i + 1] << 8 |
               (uint32_t)from[4 * i + 2] << 16 | (uint32_t)from[4 * i + 3] << 24;
}

/* Section 5.1.3. 0: no point of the curve, or not its only encoding. */
static int decode(const uint8_t bytes[32], point *p) {
  field y, x;
  uint32_t odd = bytes[31] >> 7;
  read_words(bytes, y.w, 8);
  y.w[7] &= 0x7fffffff;
  field reduced = od_field_reduced(y);
  if (!od_same(y.w, reduced.w, sizeof y.w)) return 0;
  field square = od_field_multiply(y, y);
  field u = od_field_subtract(square, ONE), v = od_field_add(od_field_multiply(square, D), ONE);
  field v3 = od_field_multiply(od_field_multiply(v, v), v);
  field v7 = od_field_multiply(od_field_multiply(v3, v3), v);
  x = od_field_multiply(od_field_multiply(u, v3), od_field_root_power(od_field_multiply(u, v7)));
  field check = od_field_multiply(od_field_multiply(x, x), v);
  if (!od_field_equal(check, u)) {
    x = od_field_multiply(x, ROOT_OF_MINUS_1);
    if (!od_field_equal(check, od_field_subtract((field){{0}}, u))) return 0;
  }
  x = od_field_reduced(x);
  if (od_field_equal(x, (field){{0}}) && odd) return 0;
  if ((x.w[0] & 1) != odd) x = od_field_subtract((field){{0}}, x);
  *p = (point){x, y, ONE, od_field_multiply(x, y)};
  return 1;
}

/* Section 5.1.2. */
static void encode(const point *p, uint8_t bytes[32]) {
  field scale = od_field_invert(p->z);
  field x = od_field_reduced(od_field_multiply(p->x, scale));
  field y = od_field_reduced(od_field_multiply(p->y, scale));
  for (int i = 0; i < 32; i++) bytes[i] = (uint8_t)(y.w[i / 4] >> 8 * (i % 4));
  bytes[31] |= (uint8_t)((x.w[0] & 1) << 7);
}

static int is_below_order(const uint32_t s[8]) {
  for (int i = 7; i >= 0; i--)
    if (s[i] != L[i]) return s[i] < L[i];
  return 0;
}

/* A number of 512 bits modulo L, bit by bit. */
static void reduce(const uint32_t wide[16], uint32_t out[8]) {
  od_zero(out, 32);
  for (int bit = 511; bit >= 0; bit--) {
    uint32_t carry = wide[bit / 32] >> bit % 32 & 1;
    for (int i = 0; i < 8; i++) {
      uint32_t next = out[i] >> 31;
      out[i] = out[i] << 1 | carry;
      carry = next;
    }
    if (is_below_order(out)) continue;
    int64_t borrow = 0;
    for (int i = 0; i < 8; i++) {
      borrow += (int64_t)out[i] - L[i];
      out[i] = (uint32_t)borrow;
      borrow = borrow < 0 ? -1 : 0;
    }
  }
}

static point negated(const point *p) {
  static const field ZERO = {{0}};
  return (point){od_field_subtract(ZERO, p->x), p->y, p->z, od_field_subtract(ZERO, p->t)};
}

/* Whether 8 p is the neutral point. */
static int is_small(const point *p) {
  point q = doubled(p);
  q = doubled(&q);
  q = doubled(&q);
  return od_field_equal(q.x, (field){{0}}) && od_field_equal(q.y, q.z);
}

/* s p + k q, for scalars below 2^253. */
static point combined(const uint32_t s[8], const point *p, const uint32_t k[8], const point *q) {
  point both = sum(p, q), result = {{{0}}, ONE, ONE, {{0}}};
  for (int bit = 252; bit >= 0; bit--) {
    uint32_t first = s[bit / 32] >> bit % 32 & 1, second = k[bit / 32] >> bit % 32 & 1;
    result = doubled(&result);
    if (first || second) result = sum(&result, first && second ? &both : first ? p : q);
  }
  return result;
}

int od_ed25519_key_valid(const uint8_t key[32]) {
  point a;
  return decode(key, &a) && !is_small(&a);
}

int od_ed25519_verify(const uint8_t signature[64], const void *message, size_t size,
                      const uint8_t key[32]) {
  point a, base;
  uint32_t s[8], wide[16], k[8];
  uint8_t digest[64], r[32];
  od_sha512 hash;
  read_words(signature + 32, s, 8);
  if (!is_below_order(s) || !decode(key, &a) || is_small(&a)) return 0;
  od_sha512_start(&hash);
  od_sha512_add(&hash, signature, 32);
  od_sha512_add(&hash, key, 32);
  od_sha512_add(&hash, message, size);
  od_sha512_end(&hash, digest);
  read_words(digest, wide, 16);
  reduce(wide, k);
  decode(BASE, &base);
  a = negated(&a);
  point expected = combined(s, &base, k, &a);
  encode(&expected, r);
  return od_same(r, signature, 32);
}

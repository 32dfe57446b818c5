/* signed.c: reads the frame of signed documents strictly, and counts valid signatures. */
#include "update/signed.h"

static const char START[] = "{\"signed\":", MIDDLE[] = ",\"signatures\":";

static int digit_of(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int is_hex(const od_json *value) {
  if (!value || value->kind != OD_J_TEXT || !value->size || value->size % 2) return 0;
  for (size_t i = 0; i < value->size; i++)
    if (digit_of(value->text[i]) < 0) return 0;
  return 1;
}

int od_read_hex(const od_json *value, uint8_t *bytes, size_t size) {
  if (!is_hex(value) || value->size != 2 * size) return 0;
  for (size_t i = 0; i < size; i++)
    bytes[i] =
        (uint8_t)(digit_of(value->text[2 * i]) << 4 | digit_of(value->text[2 * i + 1]));
  return 1;
}

/* Where the last MIDDLE begins; `size` if there is none. */
static size_t last_middle(const char *text, size_t size) {
  const size_t length = sizeof MIDDLE - 1;
  for (size_t at = size; at-- > 0;)
    if (size - at >= length && od_same(text + at, MIDDLE, length)) return at;
  return size;
}

static od_status check_signatures(const od_json *list, od_error *error) {
  if (list->kind != OD_J_LIST || list->size > OD_MAX_MANIFEST_SIGNATURES)
    return od_fail(error, OD_E_FORMAT, "signatures must be a list of up to %u",
                   (uint64_t)OD_MAX_MANIFEST_SIGNATURES);
  for (const od_json *item = list->first; item; item = item->next) {
    const od_json *keyid = od_json_member(item, "keyid");
    if (!is_hex(keyid) || !is_hex(od_json_member(item, "sig")) || item->size != 2)
      return od_fail(error, OD_E_FORMAT, "a signature has a keyid and a sig, both hexadecimal");
    for (const od_json *other = list->first; other != item; other = other->next)
      if (od_equal(od_json_member(other, "keyid")->text, keyid->text))
        return od_fail(error, OD_E_FORMAT, "two signatures of one key");
  }
  return OD_OK;
}

od_status od_signed_parse(const char *text, size_t size, od_arena *arena, od_signed *document,
                          od_error *error) {
  const size_t start = sizeof START - 1, middle = sizeof MIDDLE - 1;
  od_json *signatures;
  if (size > OD_MAX_MANIFEST_BYTES)
    return od_fail(error, OD_E_FORMAT, "a signed document has at most %u bytes",
                   (uint64_t)OD_MAX_MANIFEST_BYTES);
  while (size && (text[size - 1] == ' ' || text[size - 1] == '\n' || text[size - 1] == '\r' ||
                  text[size - 1] == '\t'))
    size--;
  size_t end = last_middle(text, size);
  if (size < start || !od_same(text, START, start) || end < start || end == size ||
      text[size - 1] != '}')
    return od_fail(error, OD_E_FORMAT,
                   "expected {\"signed\":...,\"signatures\":...}, written so");
  if (size - end > OD_MAX_SIGNATURES_BYTES)
    return od_fail(error, OD_E_FORMAT, "signatures take at most %u bytes",
                   (uint64_t)OD_MAX_SIGNATURES_BYTES);
  document->text = text + start;
  document->size = end - start;
  OD_CHECK(od_json_parse(text + end + middle, size - 1 - end - middle, "signatures", arena,
                         &signatures, error));
  document->signatures = signatures;
  return check_signatures(signatures, error);
}

od_status od_signed_value(const od_signed *document, od_arena *arena, od_json **value,
                          od_error *error) {
  return od_json_parse(document->text, document->size, "signed", arena, value, error);
}

/* Whether the document has a valid signature of a key. */
static int has_signed(const od_signed *document, const uint8_t key[32]) {
  uint8_t keyid[32], named[32], signature[64];
  od_sha256 hash;
  od_sha256_start(&hash);
  od_sha256_add(&hash, key, 32);
  od_sha256_end(&hash, keyid);
  for (const od_json *item = document->signatures->first; item; item = item->next)
    if (od_read_hex(od_json_member(item, "keyid"), named, 32) && od_same(keyid, named, 32))
      return od_read_hex(od_json_member(item, "sig"), signature, 64) &&
             od_ed25519_verify(signature, document->text, document->size, key);
  return 0;
}

od_status od_signed_check(const od_signed *document, const od_signers *signers, od_error *error) {
  uint32_t valid = 0;
  if (!signers->threshold || signers->threshold > signers->count ||
      signers->count > OD_MAX_SIGNERS)
    return od_fail(error, OD_E_INPUT, "signers need a threshold from 1 to the number of keys");
  for (uint32_t i = 0; i < signers->count; i++) {
    for (uint32_t j = 0; j < i; j++)
      if (od_same(signers->keys[i], signers->keys[j], 32))
        return od_fail(error, OD_E_INPUT, "signers name a key twice");
    valid += (uint32_t)has_signed(document, signers->keys[i]);
  }
  if (valid >= signers->threshold) return OD_OK;
  return od_fail(error, OD_E_UNTRUSTED, "%u valid signatures of trusted keys, expected %u",
                 (uint64_t)valid, (uint64_t)signers->threshold);
}

/* `count` digits as a number; -1: something else. */
static int number_at(const char *text, int count) {
  int number = 0;
  for (int i = 0; i < count; i++) {
    if (text[i] < '0' || text[i] > '9') return -1;
    number = 10 * number + text[i] - '0';
  }
  return number;
}

/* 2027-01-01T00:00:00Z in seconds since 1970; 0: it is no such text. */
static int read_time(const od_json *value, int64_t *seconds) {
  static const char FORM[] = "0000-00-00T00:00:00Z";
  static const uint8_t DAYS[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  if (value->kind != OD_J_TEXT || value->size != sizeof FORM - 1) return 0;
  const char *text = value->text;
  for (size_t i = 0; i < value->size; i++)
    if (FORM[i] != '0' && text[i] != FORM[i]) return 0;
  int year = number_at(text, 4), month = number_at(text + 5, 2), day = number_at(text + 8, 2);
  int hour = number_at(text + 11, 2), minute = number_at(text + 14, 2);
  int second = number_at(text + 17, 2);
  int leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
  if (year < 1 || month < 1 || month > 12 || day < 1 || hour < 0 || hour > 23 || minute < 0 ||
      minute > 59 || second < 0 || second > 59 || day > DAYS[month - 1] + (month == 2 && leap))
    return 0;
  int before = year - 1, days = before * 365 + before / 4 - before / 100 + before / 400;
  for (int i = 0; i < month - 1; i++) days += DAYS[i] + (i == 1 && leap);
  days += day - 1 - 719162; /* days from year 1 to 1970 */
  *seconds = (int64_t)days * 86400 + hour * 3600 + minute * 60 + second;
  return 1;
}

od_status od_signed_head(const od_json *value, const char *kind, size_t count, uint64_t *version,
                         int64_t *expires, od_error *error) {
  const od_json *stated = od_json_member(value, "kind"), *expiry = od_json_member(value, "expires");
  int64_t format, number;
  if (value->kind != OD_J_OBJECT || value->size != count)
    return od_fail(error, OD_E_FORMAT, "signed: expected an object with %u keys", (uint64_t)count);
  if (!stated || stated->kind != OD_J_TEXT || !od_equal(stated->text, kind))
    return od_fail(error, OD_E_FORMAT, "signed: kind must be '%s'", kind);
  if (!od_json_int(od_json_member(value, "format"), 1, 1, &format))
    return od_fail(error, OD_E_FORMAT, "signed: format must be 1");
  if (!od_json_int(od_json_member(value, "version"), 1, OD_MAX_MANIFEST_VERSION, &number))
    return od_fail(error, OD_E_FORMAT, "signed: version must be 1..%u",
                   (uint64_t)OD_MAX_MANIFEST_VERSION);
  *version = (uint64_t)number;
  *expires = INT64_MAX;
  if (expiry && (expiry->kind == OD_J_NULL || read_time(expiry, expires))) return OD_OK;
  return od_fail(error, OD_E_FORMAT, "signed: expires must be null or like 2027-01-01T00:00:00Z");
}

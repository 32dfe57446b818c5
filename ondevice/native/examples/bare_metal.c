/* bare_metal.c: scores rows on a Cortex-M: no operating system, no malloc, no C library.
 *
 * The model lies in flash, where it is read in place; all memory comes from one array. Needs
 * bare_metal.ld and the engine compiled with ONDEVICE_FREESTANDING (docs/devices/ios_and_embedded.md).
 * Text goes out through the debugger (ARM semihosting): put your board's serial port in its place.
 */
#include "ondevice.h"

#ifndef MEMORY_BYTES
#define MEMORY_BYTES (1024 * 1024) /* for the model's description, its plan and a session */
#endif
enum { ROWS = 4, MOST_INPUTS = 64, MOST_VALUES = 16 };

/* ---- the model: the bytes of the file */
static _Alignas(64) const unsigned char model_bytes[] = {
#embed MODEL_FILE
};

/* ---- memory: handed out upwards; released all at once, when the program begins anew */
static _Alignas(16) unsigned char memory[MEMORY_BYTES];
static size_t used;

static void *take(void *user, size_t size) {
  (void)user;
  if (size > sizeof memory - used) return NULL;
  void *taken = memory + used;
  used += (size + 15) / 16 * 16;
  if (used > sizeof memory) used = sizeof memory;
  return taken;
}

static void keep(void *user, void *taken) { (void)user, (void)taken; }

/* ---- the board: a line of text, and the end */
static int debugger(int operation, const void *argument) {
  register int r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

static void print(const char *text) { debugger(4, text); }

static void print_number(uint32_t value) {
  char text[12], *at = text + sizeof text;
  *--at = 0;
  do *--at = (char)('0' + value % 10);
  while (value /= 10);
  print(at);
}

/* Tell the debugger that the program ended, well or not. */
__attribute__((noreturn)) static void end(int well) {
  for (;;) debugger(0x18, (const void *)(uintptr_t)(well ? 0x20026 : 0x20023));
}

/* A score between 0 and 1, in millionths. */
static void print_score(float score) {
  print_number(score > 0 ? (uint32_t)(score * 1e6f + 0.5f) : 0);
  print("\n");
}

static int score_rows(void) {
  static int64_t ids[MOST_INPUTS][ROWS];
  static float scores[ROWS * MOST_VALUES];
  const void *inputs[MOST_INPUTS];
  float *outputs[MOST_VALUES] = {scores};
  static od_error error;
  const od_allocator allocator = {take, keep, NULL};
  const od_options options = {.allocator = &allocator, .full_check = 1};
  od_model *model;
  od_session *session;
  od_status status = od_open_memory(model_bytes, sizeof model_bytes, &options, &model, &error);
  if (status == OD_OK) status = od_session_open(model, &session, &error);
  if (status == OD_OK && (od_input_count(model) > MOST_INPUTS ||
                          od_output_count(model) > MOST_VALUES ||
                          od_output(model, 0)->row_size > MOST_VALUES))
    return print("a model of more inputs or outputs than this program has room for\n"), 1;
  for (size_t i = 0; status == OD_OK && i < od_input_count(model); i++) {
    if (od_input(model, i)->is_float || od_input(model, i)->row_size != 1)
      return print("this program gives one ID for each input\n"), 1;
    for (int row = 0; row < ROWS; row++) ids[i][row] = (int64_t)i + row;
    inputs[i] = ids[i];
  }
  if (status == OD_OK) status = od_run(session, inputs, ROWS, outputs, &error);
  if (status != OD_OK) return print(error.text), print("\n"), 1;
  for (int row = 0; row < ROWS; row++)
    print_score(scores[(size_t)row * od_output(model, 0)->row_size]);
  print("memory ");
  print_number((uint32_t)used);
  print("\n");
  return 0;
}

/* ---- a processor begins here: memory as C expects it, and its unit for float32 on */
extern unsigned char data_begin[], data_end[], data_source[], bss_begin[], bss_end[], stack_top[];

__attribute__((noreturn)) void reset(void) {
  *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20;
  __asm__ volatile("dsb\n\tisb");
  for (size_t i = 0; i < (size_t)(data_end - data_begin); i++) data_begin[i] = data_source[i];
  for (volatile unsigned char *at = bss_begin; at < bss_end; at++) *at = 0;
  end(score_rows() == 0);
}

__attribute__((noreturn)) static void fault(void) {
  print("fault\n");
  end(0);
}

__attribute__((section(".vectors"), used)) const void *const vectors[16] = {
    stack_top, (const void *)reset, (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault, (const void *)fault};

/* threads.c: a pool of threads that share the rows of large requests. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif

#include "core/model.h"
#include "platform/threading.h"

#include <stdlib.h>
#include <string.h>

OD_FOR_SIZE

enum { ROW_UNIT = 16 }; /* parts are multiples, so that tiles of rows stay full */

typedef struct {
  od_pool *pool;
  od_thread thread;
  od_session *session;
  const void **inputs; /* where its rows begin */
  float **outputs;
  size_t rows; /* 0: nothing to do */
  uint64_t request; /* the last one that it has seen */
  od_status status;
  od_error error;
} member;

struct od_pool {
  const od_model *model;
  long owner; /* a process: threads do not survive fork() */
  od_mutex lock;
  od_condition begun, ended;
  const uint8_t *is_context; /* NULL: a request without a context */
  uint64_t request;
  size_t waiting_for; /* members that have not ended yet */
  int closing;
  size_t count, started; /* members; the first is the caller */
  member *members;
  void *pointers;
};

static void score(member *m) {
  const uint8_t *is_context = m->pool->is_context;
  m->status = is_context
                  ? od_rank(m->session, m->inputs, is_context, m->rows, m->outputs, &m->error)
                  : od_run(m->session, m->inputs, m->rows, m->outputs, &m->error);
}

OD_THREAD_MAIN(work) {
  member *m = argument;
  od_pool *pool = m->pool;
  od_mutex_lock(&pool->lock);
  for (;;) {
    while (m->request == pool->request && !pool->closing)
      od_condition_wait(&pool->begun, &pool->lock);
    if (pool->closing) break;
    m->request = pool->request;
    if (!m->rows) continue;
    od_mutex_unlock(&pool->lock);
    score(m);
    od_mutex_lock(&pool->lock);
    if (--pool->waiting_for == 0) od_condition_wake(&pool->ended);
  }
  od_mutex_unlock(&pool->lock);
  return OD_THREAD_END;
}

od_status od_pool_open(const od_model *model, size_t threads, od_pool **pool, od_error *error) {
  *pool = NULL;
  if (threads < 1 || threads > OD_MAX_THREADS)
    return od_fail(error, OD_E_INPUT, "threads must be 1..%u, got %u", (uint64_t)OD_MAX_THREADS,
                   (uint64_t)threads);
  size_t inputs = od_input_count(model), outputs = od_output_count(model);
  od_pool *p = calloc(1, sizeof *p);
  if (!p) return od_fail(error, OD_E_MEMORY, "out of memory for a pool of threads");
  p->model = model;
  p->owner = od_process();
  p->members = calloc(threads, sizeof *p->members);
  p->pointers = calloc(threads, (inputs + outputs) * sizeof(void *));
  od_mutex_open(&p->lock);
  od_condition_open(&p->begun);
  od_condition_open(&p->ended);
  od_status status = OD_OK;
  if (!p->members || !p->pointers)
    status = od_fail(error, OD_E_MEMORY, "out of memory for a pool of threads");
  for (size_t i = 0; i < threads && status == OD_OK; i++) {
    member *m = &p->members[i];
    void **room = (void **)p->pointers + i * (inputs + outputs);
    *m = (member){.pool = p, .inputs = (const void **)room, .outputs = (float **)(room + inputs)};
    status = od_session_open(model, &m->session, error);
    if (status != OD_OK) break;
    p->count++;
    if (i && !od_thread_start(&m->thread, work, m)) status = od_fail(error, OD_E_SYSTEM, "cannot start a thread");
    else p->started++;
  }
  if (status != OD_OK) od_pool_close(p);
  else *pool = p;
  return status;
}

void od_pool_close(od_pool *pool) {
  if (!pool) return;
  int alive = od_process() == pool->owner;
  if (alive) {
    od_mutex_lock(&pool->lock);
    pool->closing = 1;
    od_condition_wake_all(&pool->begun);
    od_mutex_unlock(&pool->lock);
    for (size_t i = 1; i < pool->started; i++) od_thread_join(pool->members[i].thread);
    od_mutex_close(&pool->lock);
    od_condition_close(&pool->begun);
    od_condition_close(&pool->ended);
  }
  for (size_t i = 0; i < pool->count; i++) od_session_close(pool->members[i].session);
  free(pool->members);
  free(pool->pointers);
  free(pool);
}

/* Give the first `most` members their rows; how many have some. */
static size_t share(od_pool *pool, size_t most, const void *const *inputs, size_t rows,
                    float *const *outputs) {
  const od_model *model = pool->model;
  size_t parts = rows / OD_POOL_ROWS;
  if (parts > most) parts = most;
  if (parts < 1) parts = 1;
  size_t each = (rows + parts - 1) / parts, used = 0;
  each = (each + ROW_UNIT - 1) / ROW_UNIT * ROW_UNIT;
  for (size_t i = 0, start = 0; i < pool->count; i++) {
    member *m = &pool->members[i];
    m->rows = rows - start < each ? rows - start : each;
    if (!m->rows) continue;
    used++;
    for (size_t j = 0; j < od_input_count(model); j++) {
      const od_tensor *input = od_input(model, j);
      size_t bytes = input->row_size * (input->is_float ? sizeof(float) : sizeof(int64_t));
      int shared = pool->is_context && pool->is_context[j];
      m->inputs[j] = (const char *)inputs[j] + (shared ? 0 : start * bytes);
    }
    for (size_t j = 0; j < od_output_count(model); j++)
      m->outputs[j] = outputs[j] ? outputs[j] + start * od_output(model, j)->row_size : NULL;
    start += m->rows;
  }
  return used;
}

od_status od_pool_run(od_pool *pool, const void *const *inputs, const uint8_t *is_context,
                      size_t rows, float *const *outputs, od_error *error) {
  /* a thread that had no rows of the request before may wake only now: it must see all or nothing */
  int alive = od_process() == pool->owner;
  if (alive) od_mutex_lock(&pool->lock);
  pool->is_context = is_context;
  size_t used = share(pool, alive ? pool->count : 1, inputs, rows, outputs);
  if (used > 1) {
    pool->request++;
    pool->waiting_for = used - 1;
    od_condition_wake_all(&pool->begun);
  }
  if (alive) od_mutex_unlock(&pool->lock);
  if (!used) return OD_OK;
  score(&pool->members[0]);
  if (used > 1) {
    od_mutex_lock(&pool->lock);
    while (pool->waiting_for) od_condition_wait(&pool->ended, &pool->lock);
    od_mutex_unlock(&pool->lock);
  }
  for (size_t i = 0; i < used; i++) /* the first fault by rows, as one thread reports it */
    if (pool->members[i].status != OD_OK) {
      if (error) *error = pool->members[i].error;
      return pool->members[i].status;
    }
  return OD_OK;
}

/* plan.h: what the parts of the plan's reader share. */
#ifndef ONDEVICE_PLAN_H
#define ONDEVICE_PLAN_H

#include "core/model.h"

typedef struct {
  od_model *model;
  const od_container *file;
  od_arena *scratch;
  od_error *error;
  const od_options *options; /* NULL: all defaults */
  const char **slots_names; /* hash table: names of values */
  int32_t *slots;
  uint32_t slot_mask;
  uint32_t value_room;
  uint64_t constant_elements, constant_work; /* of values computed now */
  uint64_t row_work;                         /* of a row of a request */
} od_planner;

OD_COLD od_status od_plan_no_memory(od_planner *p);

/* A member of an object that must have this kind; lists of names hold texts only. */
OD_COLD od_status od_plan_need(od_planner *p, const od_json *object, const char *key, od_kind kind,
                       const od_json **out);

/* An object whose members all have one of `count` names: another key may change what it means. */
od_status od_plan_keys(const od_planner *p, const od_json *object, const char *what,
                       const char *const *keys, size_t count);

/* Values by name: -1 when there is none; a new one, which must not exist. */
OD_COLD int32_t od_plan_find_value(const od_planner *p, const char *name);
OD_COLD od_status od_plan_add_value(od_planner *p, const char *name, int32_t *index);

OD_COLD od_status od_plan_tables(od_planner *p, const od_json *plan);           /* plan_tables.c */
OD_COLD const od_table *od_find_table(const od_model *model, const char *name); /* NULL: none */
OD_COLD od_status od_plan_nodes(od_planner *p, const od_json *plan);            /* plan_nodes.c */

/* Let matrix products do the work of transposes before and after them, and sums that of the products
 * that they add (fold.c). */
OD_COLD od_status od_fold_nodes(od_model *model, od_arena *scratch, od_error *error);

#endif

/* id_limits.h: the limits of a model's IDs, and the check of a request against them. */
#ifndef ONDEVICE_ID_LIMITS_H
#define ONDEVICE_ID_LIMITS_H

#include "core/plan.h"

/* Read an input's id_limit, id_low and id_computed as in ondevice/info.py. */
OD_COLD od_status od_plan_id_limits(od_planner *p, const od_json *item, const od_tensor *input,
                            od_id_limits *limits);

/* OD_E_INPUT for an ID outside its limits: of all inputs, or only of those that nothing else would
 * refuse. `is_context` NULL: every input has `rows` rows. */
od_status od_check_ids(const od_model *model, const void *const *inputs, const uint8_t *is_context,
                       size_t rows, int all, od_error *error);

#endif

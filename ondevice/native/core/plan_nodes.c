/* plan_nodes.c: reads a plan's nodes: operator, operands, result, and what its shape rule finds. */
#include "core/plan.h"
#include "ops/ops.h"

OD_FOR_SIZE

/* The node's operands, which must exist already. */
static od_status read_operands(od_planner *p, const od_json *names, od_node *node) {
  node->input_count = (uint32_t)names->size;
  node->inputs = od_take(&p->model->arena, names->size, sizeof(int32_t));
  if (!node->inputs) return od_plan_no_memory(p);
  uint32_t count = 0;
  for (const od_json *name = names->first; name; name = name->next) {
    int32_t index = name->size ? od_plan_find_value(p, name->text) : -1;
    if (name->size && index < 0)
      return od_fail(p->error, OD_E_FORMAT, "plan: node %u (%s) reads '%s' before it exists",
                     (uint64_t)node->number, od_operators[node->op].name, name->text);
    node->inputs[count++] = index;
  }
  return OD_OK;
}

/* The number of the request's rows can only begin a shape: nothing computes with it. */
static int may_read(const od_node *node, uint32_t operand, const od_value *value) {
  if (!value->counts_rows) return 1;
  return node->op == OD_OP_CONCAT ? operand == 0
                                  : operand == 1 && (node->op == OD_OP_RESHAPE ||
                                                     node->op == OD_OP_EXPAND);
}

/* A result that depends on constants only is computed at once: it may be a shape. */
static od_status compute(od_planner *p, const od_node *node) {
  const od_value *values = p->model->values;
  od_rows in[OD_MAX_CONSTANT_INPUTS];
  if (node->input_count > OD_MAX_CONSTANT_INPUTS)
    return od_fail(p->error, OD_E_UNSUPPORTED, "plan: node %u has more than %u constant inputs",
                   (uint64_t)node->number, (uint64_t)OD_MAX_CONSTANT_INPUTS);
  for (uint32_t i = 0; i < node->input_count; i++)
    in[i] = (od_rows){node->inputs[i] < 0 ? NULL : values[node->inputs[i]].data, 0};
  char *out = (char *)(uintptr_t)values[node->output].data;
  if (od_execute(node, values, in, out, 0, 1))
    return od_fail(p->error, OD_E_FORMAT, "plan: node %u: an index or a divisor is out of range",
                   (uint64_t)node->number);
  return OD_OK;
}

/* Type and shape of the result; its elements if it is constant. */
static od_status infer(od_planner *p, const od_json *item, od_node *node) {
  const od_json *attributes = od_json_member(item, "attributes");
  const od_operator_row *operator = &od_operators[node->op];
  od_value *out = &p->model->values[node->output];
  od_inference f = {p->model, node, item, attributes, p->error, out};
  if (attributes && attributes->kind != OD_J_OBJECT)
    return od_fail(p->error, OD_E_FORMAT, "plan: node %u: attributes must be an object",
                   (uint64_t)node->number);
  for (uint32_t i = 0; i < node->input_count; i++) {
    if (node->inputs[i] < 0) continue;
    if (!may_read(node, i, &p->model->values[node->inputs[i]]))
      return od_refuse(&f, "it computes with the number of rows");
    if (node->op == OD_OP_CONCAT)
      out->counts_rows |= p->model->values[node->inputs[i]].counts_rows;
  }
  node->view = operator->view;
  OD_CHECK(od_check_attributes(&f));
  OD_CHECK(operator->shape(&f));
  if (node->view) return OD_OK;
  out->node = (int32_t)p->model->node_count;
  uint64_t work = od_work(node, p->model->values);
  if (out->batched) {
    p->row_work += work;
    return p->row_work <= OD_MAX_ROW_WORK ? OD_OK : od_refuse(&f, "a row takes too many steps");
  }
  node->constant = 1;
  p->constant_elements += out->size;
  p->constant_work += work;
  if (p->constant_elements > OD_MAX_CONSTANT_ELEMENTS || p->constant_work > OD_MAX_CONSTANT_WORK)
    return od_fail(p->error, OD_E_FORMAT,
                   "plan: node %u (%s): computing what is constant takes more than %u elements or "
                   "%u steps",
                   (uint64_t)node->number, operator->name, (uint64_t)OD_MAX_CONSTANT_ELEMENTS,
                   (uint64_t)OD_MAX_CONSTANT_WORK);
  out->data = od_take(&p->model->arena, out->size, od_dtype_size(out->dtype));
  return out->data ? compute(p, node) : od_plan_no_memory(p);
}

static od_status read_node(od_planner *p, const od_json *item, uint32_t number) {
  static const char *const keys[] = {"op", "inputs", "outputs", "attributes", "table", "lookup"};
  OD_CHECK(od_plan_keys(p, item, "plan: a node", keys, sizeof keys / sizeof *keys));
  const od_json *op = od_json_member(item, "op"), *lookup = od_json_member(item, "lookup");
  const od_json *inputs, *outputs;
  if (!op || op->kind != OD_J_TEXT)
    return od_fail(p->error, OD_E_FORMAT, "plan: node %u has no op", (uint64_t)number);
  OD_CHECK(od_plan_need(p, item, "inputs", OD_J_LIST, &inputs));
  OD_CHECK(od_plan_need(p, item, "outputs", OD_J_LIST, &outputs));
  od_node *node = &p->model->nodes[p->model->node_count];
  node->op = od_find_operator(op->text);
  node->number = number;
  node->kernels = p->model->kernels;
  if (node->op == OD_OP_COUNT)
    return od_fail(p->error, OD_E_UNSUPPORTED, "plan: node %u: unknown operator '%s'",
                   (uint64_t)number, op->text);
  OD_CHECK(read_operands(p, inputs, node));
  if (outputs->size != 1)
    return od_fail(p->error, OD_E_UNSUPPORTED, "plan: node %u (%s) has %u outputs",
                   (uint64_t)number, op->text, (uint64_t)outputs->size);
  OD_CHECK(od_plan_add_value(p, outputs->first->text, &node->output));
  if ((node->op == OD_OP_LOOKUP) != (lookup && lookup->kind == OD_J_OBJECT) ||
      (node->op != OD_OP_LOOKUP && (lookup || od_json_member(item, "table"))))
    return od_fail(p->error, OD_E_FORMAT,
                   "plan: node %u (%s): exactly the Lookup nodes have a lookup specification",
                   (uint64_t)number, op->text);
  OD_CHECK(infer(p, item, node));
  p->model->node_count++;
  return OD_OK;
}

od_status od_plan_nodes(od_planner *p, const od_json *plan) {
  const od_json *nodes = od_json_member(plan, "nodes");
  od_model *model = p->model;
  size_t lookups = 0;
  for (const od_json *node = nodes->first; node; node = node->next)
    lookups += od_json_member(node, "lookup") != NULL;
  model->nodes = od_take(&model->arena, nodes->size, sizeof(od_node));
  model->lookups = od_take(&model->arena, lookups, sizeof(od_lookup));
  model->lookup_inputs = od_take(&model->arena, lookups, sizeof(int32_t));
  model->lookup_outputs = od_take(&model->arena, lookups, sizeof(int32_t));
  if (!model->nodes || !model->lookups || !model->lookup_inputs || !model->lookup_outputs)
    return od_plan_no_memory(p);
  uint32_t number = 0;
  for (const od_json *node = nodes->first; node; node = node->next)
    OD_CHECK(read_node(p, node, number++));
  return OD_OK;
}

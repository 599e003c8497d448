"""Names of a plan's operations, for people: what costs alike is called alike."""

from burnish.plan.ops import LOGITS, Linear, Operation, Plan


def operation_names(plan: Plan) -> tuple[str, ...]:
    """One name for each operation, in their order: its kind, and of a product its sizes and its weight's format."""
    return tuple(map(_name, plan.operations))


def _name(operation: Operation) -> str:
    if not isinstance(operation, Linear):
        return type(operation).__name__.lower()
    weight, kind = operation.weight, "logits" if operation.out == LOGITS else "linear"
    return f"{kind} {weight.inputs}x{weight.outputs} {weight.kind}"

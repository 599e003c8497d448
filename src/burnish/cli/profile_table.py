"""How a profile, its energy and its cost are shown."""

from rich.markup import escape
from rich.table import Table

from burnish.core.profile_summary import Summary
from burnish.measure.cost import Cost, EnergyCost, PerToken


def shares_table(summary: Summary, title: str) -> Table:
    """The shares of the time of all steps, the largest first."""
    rate = summary.output_tokens / summary.seconds
    table = Table(
        *("in a step", "share", "of prefill", "of decode", "µs a step"),
        title=escape(title),
        title_justify="left",
        caption=(
            f"{summary.num_steps} steps in {summary.seconds:.3f} s, {summary.prefill_s:.3f} s of them prefill of "
            f"{summary.prefill_tokens} tokens, {summary.decode_s:.3f} s decode of {summary.decode_tokens}; "
            f"{summary.output_tokens} written ({rate:,.1f}/s); Python's share of a step {summary.python_share:.1%}"
        ),
        caption_justify="left",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for row in summary.shares:
        shares = (f"{share:.1%}" for share in (row.share, row.of_prefill, row.of_decode))
        table.add_row(escape(row.name), *shares, f"{row.seconds / summary.num_steps * 1e6:,.1f}")
    return table


def told_energy(found: EnergyCost) -> str:
    """One line, which says where nothing was counted."""
    kind = "estimated" if found.is_estimated else "counted"
    how = "; ".join(f"{part.source} {part.joules:.3g} J: {part.formula}" for part in found.energy.parts)
    return f"Energy ({kind}): {_each(found.joules_per_token, 'J for each of the')} ({how})."


def told_cost(cost: Cost) -> str:
    """One line, with its formula."""
    each = _each(cost.per_million, f"{cost.currency} a million")
    price = f"{cost.currency} {cost.price_per_hour:g} an hour, busy {cost.busy_share:.0%} of it"
    return f"Cost on {cost.machine}: {each} ({price}; {cost.formula})."


def _each(amounts: PerToken, unit: str) -> str:
    told = {"input": amounts.input, "output": amounts.output}
    return ", ".join(f"{value:.3g} {unit} {name} tokens" for name, value in told.items() if value is not None)

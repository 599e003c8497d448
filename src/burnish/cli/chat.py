"""burnish chat: talk to a model in the terminal."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from burnish.cli.output import Model, err

if TYPE_CHECKING:
    from burnish.core.types import Message, Sampling
    from burnish.llm import LLM

app = typer.Typer(add_completion=False)


@app.command()
def chat(
    model: Model = "builtin",
    system: Annotated[str, typer.Option(help="A system message to begin with.")] = "",
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens; none: the context.")] = None,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.8,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens up to this probability.")] = 0.95,
    seed: Annotated[int | None, typer.Option(help="Makes the answers reproducible.")] = None,
) -> None:
    """Talk to a model. An empty line or Ctrl-D ends the conversation."""
    from burnish.core.types import Message, Sampling
    from burnish.llm import LLM

    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
    llm = LLM(model)
    history = [Message("system", system)] if system else []
    while (text := _ask()) is not None:
        history.append(Message("user", text))
        answer = asyncio.run(_answer(llm, history, sampling))
        history.append(Message("assistant", answer))


def _ask() -> str | None:
    """The next line of the user; None when the conversation is over."""
    err.print("[bold]you[/] ", end="")
    line = sys.stdin.readline().strip()
    return line or None


async def _answer(llm: "LLM", history: "list[Message]", sampling: "Sampling") -> str:
    """Stream the answer to stdout."""
    shown = ""
    async for output in llm.stream(llm.tokenizer.chat(history), sampling):
        sys.stdout.write(output.text[len(shown) :])
        sys.stdout.flush()
        shown = output.text
    sys.stdout.write("\n")
    return shown

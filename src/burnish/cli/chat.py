"""burnish chat: talk to a model in the terminal."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from burnish.cli.options import refuse_no_tokens
from burnish.cli.output import Model, err
from burnish.core.errors import BadRequest, PromptTooLong

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

    refuse_no_tokens(max_tokens)
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed)
    llm = _load(model)
    begun = [Message("system", system)] if system else []
    history: list[Message] = []
    is_told = False
    while (text := _ask()) is not None:
        turns = [*history, Message("user", text)]
        history = _recent(llm, begun, turns, max_tokens)
        if len(history) < len(turns) and not is_told:
            err.print(f"[dim]The context of {llm.card.max_request_tokens} tokens is full: the oldest turns go.[/]")
            is_told = True
        try:
            answer = asyncio.run(_answer(llm, begun + history, sampling))
        except PromptTooLong as error:  # a message too long on its own: the conversation goes on without it
            err.print(str(error), markup=False, highlight=False)
            history.pop()
        else:
            history.append(Message("assistant", answer))


def _load(model: str) -> "LLM":
    """The model. Raises ``BadRequest`` when it has no chat template."""
    from burnish.llm import LLM
    from burnish.models.locate import locate
    from burnish.models.tokenizer import load_tokenizer

    if load_tokenizer(locate(model)).template is None:
        raise BadRequest(f"model {model!r} has no chat template", remedy=f"Use: burnish generate {model}")
    with err.status("Loading"):
        return LLM(model)


def _recent(llm: "LLM", begun: "list[Message]", turns: "list[Message]", max_tokens: int | None) -> "list[Message]":
    """The newest turns that leave room for an answer, a quarter of the context if it has no length of its own."""
    limit = llm.card.max_request_tokens
    while len(turns) > 2 and len(llm.tokenizer.chat(begun + turns)) + (max_tokens or limit // 4) > limit:
        turns = turns[2:]  # a question and its answer
    return turns


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

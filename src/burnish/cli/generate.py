"""burnish generate: continue a prompt."""

from typing import Annotated

import typer

from burnish.cli.options import Draft, drafting, refuse_no_tokens
from burnish.cli.output import AsJson, Model, print_json, progress

app = typer.Typer(add_completion=False)


@app.command()
def generate(
    model: Model = "builtin",
    prompt: Annotated[str, typer.Option(help="The text to continue; empty: from the beginning.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Longest output, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens up to this probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Keep this many tokens; 0: all.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Makes a sampled text reproducible.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this text; may be repeated.")] = None,
    draft: Draft = None,
    json: AsJson = False,
) -> None:
    """Continue a prompt and print the text."""
    from burnish.core.settings import make_config
    from burnish.core.types import Sampling
    from burnish.engine.config import EngineConfig
    from burnish.llm import LLM

    refuse_no_tokens(max_tokens)
    sampling = Sampling(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, stop=tuple(stop or ())
    )
    with progress("Loading", quiet=json):
        llm = LLM(model, make_config(EngineConfig, drafting(draft, model), section="engine"))
    [output] = llm.generate(prompt, sampling)
    if json:
        print_json(
            {
                "text": output.text,
                "token_ids": output.token_ids,
                "finish_reason": output.finish_reason,
                "usage": output.usage,
            }
        )
    else:
        print(prompt + output.text)

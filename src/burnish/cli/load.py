"""burnish load: traffic for a server, and what its users would have seen."""

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.load_result import LoadResult, fail, judge, load_table, refuse_unwritable, write_result
from burnish.cli.output import AsJson, out, print_json, progress
from burnish.measure.limits import parse_limits
from burnish.measure.load.arrivals import Traffic
from burnish.measure.load.latency import REQUEST_FIGURES, RUN_FIGURES, summarise
from burnish.measure.load.probe import find_target
from burnish.measure.load.run import run_load

app = typer.Typer(add_completion=False)


@app.command()
def load(
    url: Annotated[str, typer.Argument(help="An OpenAI-compatible server: [bold]http://HOST:PORT[/].")],
    rate: Annotated[float | None, typer.Option(help="Open loop: requests per second, at random.")] = None,
    burstiness: Annotated[
        float | None, typer.Option(help="Shape of the gamma gaps: 1 is Poisson, less comes in bursts.  \\[default: 1]")
    ] = None,
    users: Annotated[int | None, typer.Option(help="Closed loop: so many, each with one request at a time.")] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="Times and lengths: an Azure .csv, a Mooncake .jsonl, ServeGen's *-trace.csv or a folder."),
    ] = None,
    speed: Annotated[float | None, typer.Option(help="Replay the trace so many times as fast.  \\[default: 1]")] = None,
    start: Annotated[float, typer.Option(help="Begin so many seconds into the trace.")] = 0.0,
    prompt_tokens: Annotated[
        int | None, typer.Option(help="Tokens of each prompt, without a trace.  \\[default: 128]")
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option(help="Tokens of each output, without a trace.  \\[default: 32]")
    ] = None,
    shrink: Annotated[int, typer.Option(help="Divide lengths by this, shared prefixes included.")] = 1,
    max_prompt_tokens: Annotated[int | None, typer.Option(help="Cut longer prompts.")] = None,
    max_output_tokens: Annotated[int | None, typer.Option(help="Cut longer outputs.")] = None,
    requests: Annotated[int | None, typer.Option(help="Send so many; 100 unless --seconds are given.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Send nothing new after so many.")] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            help="[bold]ttft_ms<=200[/] on each request makes goodput; [bold]p95_ttft_ms<=200[/] on the run fails it."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The server's first by default.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Ask /v1/chat/completions, not /v1/completions.")] = False,
    api_key: Annotated[str | None, typer.Option(envvar="BURNISH_API_KEY", help="Key of the server.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds a request may last.")] = 600.0,
    max_in_flight: Annotated[int, typer.Option(help="Open loop: more wait here, which counts as queue.")] = 512,
    seed: Annotated[
        int, typer.Option(help="The same one sends the same prompts again, which a prefix cache remembers.")
    ] = 0,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write the figures and every request to this JSON file.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Put load on a server: latencies from the instant a request was due, goodput under limits, errors by kind."""
    traffic = Traffic(
        users=users,
        rate=rate,
        burstiness=burstiness,
        trace=trace,
        speed=speed,
        start_s=start,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        shrink=shrink,
        max_prompt_tokens=max_prompt_tokens,
        max_output_tokens=max_output_tokens,
        requests=requests,
        seconds=seconds,
        seed=seed,
    )
    limits = parse_limits(limit or (), (*REQUEST_FIGURES, *RUN_FIGURES))
    refuse_unwritable(out_file)
    with progress("Asking the server", quiet=json):
        target = find_target(
            url, model=model, chat=chat, api_key=api_key, timeout_s=timeout, max_in_flight=max_in_flight
        )
    with progress(f"Load on {target.dialect.model}", quiet=json) as moved:
        run = run_load(target, traffic, progress=moved)
    on_requests = [limit for limit in limits if limit.name in REQUEST_FIGURES]
    report = summarise(run.records, on_requests)
    result = LoadResult(
        url=url,
        dialect=target.dialect,
        traffic=traffic,
        request_limits=tuple(map(str, on_requests)),
        run_limits=judge(report, [limit for limit in limits if limit.name in RUN_FIGURES]),
        report=report,
        client_share=run.client_share,
    )
    if out_file is not None:
        write_result(out_file, result, run.records)
    if json:
        print_json(result)
    else:
        out.print(load_table(result))
    fail(result)

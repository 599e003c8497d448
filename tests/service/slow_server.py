"""A server of its own process for the tests of start and end: pause of the double, time to drain, time to load.

It says its port, loads (less than no time: in vain), says its URL and serves until a signal comes.
"""

import asyncio
import sys

from fastapi import FastAPI

from burnish.core.errors import BadCheckpoint, BurnishError
from burnish.service.app import create_app
from burnish.service.config import ServiceConfig
from burnish.service.server import bind, serve
from tests.service.double import CARD, ByteCodec, Double

if __name__ == "__main__":
    pause_s, drain_s, load_s = map(float, sys.argv[1:])

    async def make_app() -> FastAPI:
        await asyncio.sleep(abs(load_s))
        if load_s < 0:
            raise BadCheckpoint("no such model")
        return create_app(Double(pause_s=pause_s), ByteCodec(), CARD, ServiceConfig(drain_s=drain_s))

    with bind("127.0.0.1", 0) as listener:
        print(listener.getsockname()[1], flush=True)
        try:
            asyncio.run(serve(make_app, listener, announce=lambda url: print(url, flush=True)))
        except BurnishError as error:
            print(error, flush=True)
    print("left", flush=True)

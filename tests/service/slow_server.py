"""A server of its own process for the drain tests: says its URL, then serves a slow double until a signal comes."""

import sys

from burnish.service.app import create_app
from burnish.service.config import ServiceConfig
from burnish.service.server import run_server
from tests.service.double import CARD, ByteCodec, Double

if __name__ == "__main__":
    pause_s, drain_s = map(float, sys.argv[1:])
    app = create_app(Double(pause_s=pause_s), ByteCodec(), CARD, ServiceConfig(drain_s=drain_s))
    run_server(app, "127.0.0.1", 0, announce=lambda url: print(url, flush=True))
    print("left", flush=True)

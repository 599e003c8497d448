"""Settings of the service."""

import math
from dataclasses import dataclass, field

from burnish.core.errors import BadSettings


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """Limits of what one request may ask for, keys, and times. Raises ``BadSettings`` for values out of range."""

    api_keys: tuple[str, ...] = field(default=(), repr=False)  # empty: open to everybody who reaches the port
    max_body_bytes: int = 4 << 20
    max_prompts: int = 64  # prompts in one /v1/completions call
    max_n: int = 16  # choices per prompt
    max_logprobs: int = 20
    max_stop: int = 16  # stop strings, and as many stop token ids
    drain_s: float = 30.0  # how long running answers may go on after SIGTERM
    max_profile_steps: int = 256  # of the engine, in one /admin/profile call
    profile_s: float = 30.0  # how long such a call waits for them
    request_timeout_s: float | None = None  # an answer that takes longer ends with an error; None: no limit

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_prompts", "max_n", "max_logprobs", "max_stop", "max_profile_steps"):
            if getattr(self, name) < 1:
                raise BadSettings(
                    f"setting service.{name} = {getattr(self, name)} is too small", remedy="Give 1 or more"
                )
        if self.drain_s < 0 or (self.request_timeout_s is not None and self.request_timeout_s <= 0):
            raise BadSettings(
                "service.drain_s and service.request_timeout_s may not be negative", remedy="Correct them"
            )
        if not 0 < self.profile_s < math.inf:
            raise BadSettings(f"setting service.profile_s = {self.profile_s} is wrong", remedy="Give seconds above 0")
        if any(not key.strip() for key in self.api_keys):
            raise BadSettings("an API key is empty", remedy="Give a key, or none at all to leave the server open")

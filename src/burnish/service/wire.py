"""HTTP/1.1 as uvicorn speaks it, except that what is no HTTP is refused in the OpenAI error shape too."""

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from burnish.core.errors import BadRequest
from burnish.service.faults import error_json


class Wire(H11Protocol):
    """One connection."""

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are no request, and hang up."""
        body = error_json(BadRequest("this is no HTTP request", remedy="Send HTTP/1.1", code="invalid_http"))
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

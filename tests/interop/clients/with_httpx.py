"""httpx, as any agent calls it. A second argument `h2` asks for HTTP/2."""

import sys

import httpx

with httpx.Client(http2="h2" in sys.argv[2:], timeout=30) as client:
    answer = client.get(sys.argv[1])
print(answer.text)
print(answer.http_version)
answer.raise_for_status()

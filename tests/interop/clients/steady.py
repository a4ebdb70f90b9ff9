"""Asks the same thing for SECONDS, one request after another, and stops at the first that fails.

steady.py URL SECONDS
"""

import sys
import time

import requests

url, seconds = sys.argv[1], float(sys.argv[2])
end = time.monotonic() + seconds
count, slowest = 0, 0.0
with requests.Session() as session:
    while (begun := time.monotonic()) < end:
        answer = session.get(url, timeout=30)
        if answer.status_code != 200:
            sys.exit(f"request {count + 1} was answered {answer.status_code}: {answer.text}")
        count, slowest = count + 1, max(slowest, time.monotonic() - begun)
print(f"{count} requests, the slowest took {slowest * 1000:.0f} ms")

"""requests, as any agent calls it: no proxy, no authority, no credential in sight."""

import sys

import requests

answer = requests.get(sys.argv[1], timeout=30)
print(answer.text)
answer.raise_for_status()

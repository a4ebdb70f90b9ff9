"""The Anthropic SDK, streaming, with a placeholder for its token.

with_anthropic.py BASE-URL
"""

import sys

import anthropic

client = anthropic.Anthropic(base_url=sys.argv[1], max_retries=0, timeout=30)
text, released = "", False
stream = client.messages.create(model="cup", max_tokens=9, messages=[{"role": "user", "content": "Tea?"}], stream=True)
for event in stream:
    if not released:
        # The API says no more until it is told: an event that is held back would never come.
        client.post("/release", cast_to=object)
        released = True
    if event.type == "content_block_delta":
        text += event.delta.text
print(text)

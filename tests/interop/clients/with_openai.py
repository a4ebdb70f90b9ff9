"""The OpenAI SDK, streaming, with a placeholder for its key.

with_openai.py BASE-URL
"""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], max_retries=0, timeout=30)
text = ""
for chunk in client.chat.completions.create(model="cup", messages=[{"role": "user", "content": "Tea?"}], stream=True):
    if not text:
        # The API says no more until it is told: an event that is held back would never come.
        client.post("/../release", cast_to=object)
    text += chunk.choices[0].delta.content or ""
print(text)

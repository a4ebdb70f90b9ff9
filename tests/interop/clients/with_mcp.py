"""The MCP SDK for Python over streamable HTTP, as any agent calls it, without a credential.

with_mcp.py URL TOOL ARGUMENTS
"""

import asyncio
import json
import sys

from mcp.client.client import Client


async def main():
    url, tool, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    async with Client(url) as client:
        tools = (await client.list_tools()).tools
        print("tools", len(tools))
        result = await client.call_tool(tool, arguments)
        print(result.content[0].text)


asyncio.run(main())

"""An MCP server of the Python SDK over streamable HTTP, on the port of its only argument."""

import sys

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("cups")


@server.tool()
def fill(size: int) -> str:
    """Fills a cup."""
    return f"a cup of {size} ml"


@server.tool()
async def brew(context: Context) -> str:
    """Says how far it is while it brews."""
    for done in range(3):
        await context.report_progress(done, 3, f"minute {done}")
    return "tea"


server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))

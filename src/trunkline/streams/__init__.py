"""The wire: the only package that speaks Redis.

`keys` declares every key, `client` holds the connection and runs the scripts, `calls` is the path of a message
between API pods and workers, `outbox` what is sent to a client, `sessions` who may speak, `control` what all pods
must hear. Every write on the message path is one script, harmless when repeated.
"""

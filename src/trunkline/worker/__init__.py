"""PROCESS 2: the worker pod. Claims calls from the lanes, executes them and publishes what comes of them."""

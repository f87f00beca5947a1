"""PROCESS 1: the API pod. Holds clients' connections and nothing else that another pod could not take over."""

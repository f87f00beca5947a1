"""Tenants, their toolsets and their keys: stored, announced to every pod, and verified."""

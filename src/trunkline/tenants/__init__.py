"""Tenants, the toolsets they switched on, and the keys they issue: who they are, stored, announced and verified."""

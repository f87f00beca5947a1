"""The control plane: `/v1`, for people and scripts that manage tenants. FastAPI is imported here and nowhere else."""

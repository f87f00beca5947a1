# syntax=docker/dockerfile:1
# One image for all of Trunkline's processes: `trunkline api`, `trunkline worker`, `trunkline migrate`.
#
#   docker build --tag trunkline:0.1.0 .
#
# What is installed is fixed to the byte by locks/image.lock; nothing is compiled but Python's own bytecode, and nothing
# of what builds is in the image. It runs as user 10001 and writes nowhere: use it with a read-only root file system.

# Debian slim and Python 3.11 or newer; name it with its digest to have the same one every time.
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY locks/build.lock locks/image.lock ./
RUN python -m venv --without-pip tools \
    && python -m pip --python tools/bin/python install --require-hashes --no-deps --only-binary :all: -r build.lock
RUN python -m venv --without-pip /opt/trunkline \
    && python -m pip --python /opt/trunkline/bin/python install --require-hashes --no-deps --only-binary :all: \
        --no-compile -r image.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY alembic alembic
RUN tools/bin/python -m hatchling build --target wheel \
    && python -m pip --python /opt/trunkline/bin/python install --no-deps --no-index --no-compile dist/*.whl \
    && /opt/trunkline/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/trunkline/lib
COPY deploy/alive.py /opt/trunkline/alive.py

FROM ${BASE}
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Trunkline" \
      org.opencontainers.image.description="The hosted platform for MCP servers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
RUN groupadd --gid 10001 trunkline \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin trunkline
COPY --from=build /opt/trunkline /opt/trunkline
ENV PATH=/opt/trunkline/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# Where servers to host are looked for: `FROM trunkline:0.1.0`, `COPY greeter.py ./`, TRUNKLINE_SERVERS=greeter:server.
WORKDIR /srv
USER 10001:10001
# 8000 is what `trunkline api --host 0.0.0.0` serves; 9090 is for TRUNKLINE_METRICS_PORT.
EXPOSE 8000 9090
# Knows by itself which process it looks after; one that has no port is in order while it runs.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["/opt/trunkline/bin/python", "-I", "/opt/trunkline/alive.py"]
# SIGTERM drains; give it 60 s: docker stop --time 60, terminationGracePeriodSeconds.
STOPSIGNAL SIGTERM
CMD ["trunkline", "--help"]

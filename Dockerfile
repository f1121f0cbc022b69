# The scoring image: everything that an hourly run uses, without training and the sandbox.
#
#   docker build -t winback .
#   docker run --rm --read-only --tmpfs /tmp -v winback-data:/data winback
#
# The base image is pinned by tag. To pin it by digest, print the digest with
#   docker buildx imagetools inspect python:3.11-slim
# and change both FROM lines to: FROM python:3.11-slim@sha256:...

FROM python:3.11-slim AS build
# The root file system may be read-only at run time, so bytecode is compiled here.
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore UV_COMPILE_BYTECODE=1 UV_NO_CACHE=1
WORKDIR /app
COPY requirements/install.py requirements/uv.txt requirements/job.txt requirements/
RUN python requirements/install.py --into /venv job
# pyproject.toml refers to README.md and LICENSE.
COPY pyproject.toml README.md LICENSE ./
COPY core core
COPY scoring scoring
COPY crm_sync crm_sync
COPY warehouse warehouse
COPY jobs jobs
COPY dbt dbt
COPY config config
# An editable install, because jobs/transform/dbt.py finds the dbt project in dbt/ next to jobs/. In site-packages, dbt/ is the
# dbt library. The build backend is in the lock file, so nothing is downloaded here.
RUN python requirements/install.py --into /venv --project

FROM python:3.11-slim
LABEL org.opencontainers.image.title="winback" \
      org.opencontainers.image.description="Scores users who left unfinished and syncs the CRM, hourly" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin winback \
    && install --directory --owner=winback --group=winback /data
COPY --from=build /venv /venv
COPY --from=build /app /app
# winback writes only to /tmp and to the volume /data (warehouse and models), so the root may be mounted read-only.
ENV PATH=/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    WINBACK_WAREHOUSE=duckdb:////data/winback.duckdb \
    WINBACK_MODELS=/data/models \
    WINBACK_REGISTRY=none \
    WINBACK_CONFIG=/app/config \
    WINBACK_DBT_TARGET=/tmp/dbt
WORKDIR /app
USER 10001
VOLUME /data
ENTRYPOINT ["winback"]
CMD ["run"]

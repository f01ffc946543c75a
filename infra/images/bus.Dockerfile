# The bus side: prefilter, enforcement and all commands, without the reasoning model.
FROM python:3.11-slim-bookworm AS build
COPY infra/requirements/uv.txt infra/requirements/prefilter.txt /pins/
RUN python -m venv /opt/safeguard \
 && /opt/safeguard/bin/pip install --no-cache-dir --require-hashes -r /pins/uv.txt \
 && /opt/safeguard/bin/uv pip sync --no-cache --python /opt/safeguard/bin/python --require-hashes /pins/prefilter.txt
COPY . /source
RUN /opt/safeguard/bin/uv pip install --no-cache --python /opt/safeguard/bin/python --no-deps /source

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 1000 safeguard
COPY --from=build /opt/safeguard /opt/safeguard
ENV PATH=/opt/safeguard/bin:$PATH
USER safeguard
WORKDIR /home/safeguard
ENTRYPOINT ["safeguard"]

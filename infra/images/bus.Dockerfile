# The bus side: prefilter, enforcement and all commands, without the reasoning model. With EXTRA=encoder, the prefilter's
# gates can use the vectors of texts. With EXTRA=console, the image holds the console and its projector instead.
# A tag can be moved. To pin what you tested, build with --build-arg PYTHON=python@sha256:DIGEST.
ARG PYTHON=python:3.11.14-slim-bookworm
FROM ${PYTHON} AS build
ARG EXTRA=prefilter
COPY infra/requirements/uv.txt infra/requirements/build.txt infra/requirements/${EXTRA}.txt /pins/
RUN python -m venv /opt/safeguard \
 && /opt/safeguard/bin/pip install --no-cache-dir --require-hashes -r /pins/uv.txt \
 && /opt/safeguard/bin/uv pip sync --no-cache --python /opt/safeguard/bin/python --require-hashes /pins/${EXTRA}.txt
COPY . /source
RUN /opt/safeguard/bin/uv pip install --no-cache --python /opt/safeguard/bin/python --no-deps --build-constraints /pins/build.txt /source

FROM ${PYTHON}
RUN useradd --create-home --uid 1000 safeguard
COPY --from=build /opt/safeguard /opt/safeguard
ENV PATH=/opt/safeguard/bin:$PATH
USER safeguard
WORKDIR /home/safeguard
ENTRYPOINT ["safeguard"]

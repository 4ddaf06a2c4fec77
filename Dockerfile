# The image of `holdfast serve`. The base is yours: anything with Python 3.11 or newer as python3. Let it have git where
# documents come from git, and openssh-client where they come over SSH. The build asks no network for anything: the
# wheels of requirements.lock, and pip's own, lie in dist/wheels:
#
#   python3 -m pip download --require-hashes --only-binary=:all: --dest dist/wheels --requirement requirements.lock
#   python3 -m pip download --only-binary=:all: --dest dist/wheels pip
#   docker build --network=none --build-arg BASE=IMAGE --tag holdfast .
#
# With --build-arg EXTRAS=[otlp,sops] the extras of pyproject.toml are in it too; then their wheels lie there as well.
ARG BASE

FROM ${BASE} AS build
WORKDIR /build
COPY dist/wheels wheels
COPY requirements.lock pyproject.toml README.md ./
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/build/wheels PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv --without-pip /opt/holdfast && python3 -m zipfile -e wheels/pip-*.whl /opt/pip && \
    PYTHONPATH=/opt/pip /opt/holdfast/bin/python -m pip install -q --require-hashes --requirement requirements.lock
COPY stickers stickers
COPY desired_state desired_state
COPY drivers drivers
COPY reconciler reconciler
COPY api api
ARG EXTRAS=
RUN PYTHONPATH=/opt/pip /opt/holdfast/bin/python -m pip install -q --no-build-isolation ".${EXTRAS}"

FROM ${BASE}
COPY --from=build /opt/holdfast /opt/holdfast
COPY deploy/healthcheck.py /opt/holdfast/healthcheck.py
RUN echo 'holdfast:x:10001:10001::/var/lib/holdfast:/usr/sbin/nologin' >> /etc/passwd && \
    echo 'holdfast:x:10001:' >> /etc/group && \
    mkdir -m 0700 /var/lib/holdfast /var/lib/holdfast/keys && \
    chown 10001:10001 /var/lib/holdfast /var/lib/holdfast/keys && \
    for program in git ssh; do command -v $program > /dev/null || \
    echo "note: the base has no $program; sources in git need git, and over SSH an ssh client too" >&2; done
ENV PATH=/opt/holdfast/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOLDFAST_STATE=/var/lib/holdfast \
    HOLDFAST_LISTEN=0.0.0.0:8420
USER 10001:10001
# documents are looked for in /srv/holdfast, unless the settings say otherwise
WORKDIR /srv
VOLUME /var/lib/holdfast
EXPOSE 8420
# on the socket, so that it asks for no certificate and no name
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["/opt/holdfast/bin/python", "-IS", "/opt/holdfast/healthcheck.py"]
ENTRYPOINT ["/opt/holdfast/bin/holdfast"]
CMD ["serve"]

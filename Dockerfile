# One file for the images of all tiers: docker build --target device . (or gateway, cloud, dashboard, testbed, ...)
#
# A tier's image has its layers in this order: a Debian with Python, the libraries that all tiers need, those of this
# tier, Headwater. The first two are one in all images. Each image has one user, who is not root: 10001 everywhere, but
# for the weather's (chaos), which is root, for only to root does an engine give a right.
ARG BASE=debian:bookworm-slim

# ── what installs; nothing of it is in an image ─────────────────────────────────────────────────────────────────────
FROM ${BASE} AS tools
# Where pip finds packages is the builder's affair: --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV ENVIRONMENT=/opt/headwater PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
      python3 python3-pip python3-venv \
 && python3 -m venv --without-pip /opt/headwater
COPY deploy/image/layer /usr/local/bin/
WORKDIR /src

# What to install is taken out of the project first: other changes to its file leave the libraries as they are.
FROM tools AS requirements
COPY deploy/image/requirements /usr/local/bin/
COPY pyproject.toml ./
RUN requirements trust metrics > /common.txt \
 && requirements device > /runtime.txt \
 && requirements cli > /command.txt \
 && requirements cli cloud postgres > /history.txt \
 && requirements dashboard > /pages.txt \
 && requirements testbed | grep ^seglearn > /recordings.txt

FROM tools AS common
COPY --from=requirements /common.txt /
RUN mkdir -p /layers/venv/opt && cp -a /opt/headwater /layers/venv/opt/ && layer common -r /common.txt

FROM common AS runtime
COPY --from=requirements /runtime.txt /
RUN layer runtime -c /common.txt -r /runtime.txt

FROM common AS command
COPY --from=requirements /command.txt /
RUN layer command -c /common.txt -r /command.txt

FROM runtime AS history
COPY --from=command /layers/command /
COPY --from=requirements /history.txt /
RUN layer history -c /common.txt -r /history.txt

FROM command AS pages
COPY --from=requirements /pages.txt /
RUN layer pages -c /common.txt -r /pages.txt

FROM tools AS seglearn
COPY --from=requirements /recordings.txt /
RUN python3 -m pip install --quiet --no-deps --target /seglearn -r /recordings.txt

FROM common AS wheel
RUN python3 -m pip install --quiet --break-system-packages hatchling
COPY . .
RUN python3 -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /wheel . \
 && layer headwater --no-deps /wheel/*.whl

FROM wheel AS contents
COPY --from=seglearn /seglearn /seglearn
RUN PYTHONPATH=/seglearn /opt/headwater/bin/python -m headwater.testbed.containers.contents /contents

# ── root file systems ───────────────────────────────────────────────────────────────────────────────────────────────
FROM ${BASE} AS debian
COPY deploy/image/root /usr/local/bin/
RUN root python3

FROM ${BASE} AS debian-broker
COPY deploy/image/root /usr/local/bin/
RUN root mosquitto mosquitto-clients

FROM ${BASE} AS debian-postgres
COPY deploy/image/root /usr/local/bin/
# Its just-in-time compiler is half of its size, and of use to large analyses alone.
RUN root postgresql && rm -rf /usr/lib/*/libLLVM* /usr/lib/postgresql/*/lib/bitcode /usr/lib/postgresql/*/lib/llvmjit* \
 && ln -s /usr/lib/postgresql/*/bin /usr/lib/postgresql/bin

FROM ${BASE} AS debian-chaos
COPY deploy/image/root /usr/local/bin/
RUN root iproute2

# ── the tiers; each from nothing, so that what was deleted is gone ──────────────────────────────────────────────────
FROM scratch AS node
COPY --from=debian / /
COPY --from=common /layers/venv /
COPY --from=common /layers/common /
COPY deploy/image/healthy /usr/local/bin/
ENV PATH=/opt/headwater/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1
USER 10001:10001
WORKDIR /var/lib/headwater
STOPSIGNAL SIGTERM

FROM node AS device
COPY --from=runtime /layers/runtime /
COPY --from=wheel /layers/headwater /
COPY deploy/image/seat /usr/local/bin/
CMD ["headwater-device", "/etc/headwater/device.toml"]

FROM node AS gateway
COPY --from=command /layers/command /
COPY --from=wheel /layers/headwater /
CMD ["headwater", "gateway", "/etc/headwater/gateway.toml"]

FROM node AS cloud
COPY --from=runtime /layers/runtime /
COPY --from=command /layers/command /
COPY --from=history /layers/history /
COPY --from=wheel /layers/headwater /
CMD ["headwater", "cloud", "/etc/headwater/cloud.toml"]

FROM node AS dashboard
COPY --from=command /layers/command /
COPY --from=pages /layers/pages /
COPY --from=wheel /layers/headwater /
CMD ["headwater", "dashboard", "/etc/headwater/dashboard.toml"]

# ── what else the testbed needs ─────────────────────────────────────────────────────────────────────────────────────
FROM node AS testbed
COPY --from=wheel /layers/headwater /
COPY --from=contents /contents/recordings /usr/share/headwater/recordings
COPY --from=contents --chown=10001:10001 /contents/places /places
ENTRYPOINT ["python", "-m", "headwater.testbed.containers.setup", "/places", "--recordings", "/usr/share/headwater/recordings"]

FROM scratch AS broker
COPY --from=debian-broker / /
USER 10001:10001
WORKDIR /var/lib/headwater
COPY deploy/image/watch /usr/local/bin/
CMD ["/usr/sbin/mosquitto", "-c", "/var/lib/headwater/mosquitto.conf"]

FROM scratch AS postgres
COPY --from=debian-postgres / /
COPY deploy/postgres/serve /usr/local/bin/
ENV PATH=/usr/lib/postgresql/bin:/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 PGHOST=/tmp
USER 10001:10001
WORKDIR /var/lib/headwater
STOPSIGNAL SIGINT
CMD ["serve"]

FROM scratch AS chaos
COPY --from=debian-chaos / /
COPY deploy/chaos/weather /usr/local/bin/
CMD ["weather"]

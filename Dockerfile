FROM rust:1-slim AS build
# SQLite and zstd are compiled from C.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
RUN cargo build --release --locked --package pilgrimage-cli \
    && strip target/release/pilgrimage

FROM debian:stable-slim
# The directories belong to the user before volumes are mounted over them, so that new volumes do, too.
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin pilgrimage \
    && install --directory --owner=pilgrimage --mode=0700 /data /secret
COPY --from=build /build/target/release/pilgrimage /usr/local/bin/pilgrimage
USER 10001
# Where `status` and the other commands in the container note and look for running brokers.
ENV PILGRIMAGE_STATE_DIR=/tmp/pilgrimage \
    PILGRIMAGE_STORAGE=/data
VOLUME /data
EXPOSE 8080 9080
STOPSIGNAL SIGTERM
# A node that joins others looks for them for up to a minute.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["pilgrimage", "status", "--url", "http://127.0.0.1:8080"]
ENTRYPOINT ["pilgrimage"]
# Loopback is the default inside the container, too: to listen for others is a decision that whoever runs it spells
# out, as docker-compose.yml does.
CMD ["start"]

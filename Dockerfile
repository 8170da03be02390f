# syntax=docker/dockerfile:1
# scoreline as an image: `docker build -t scoreline .`, then deploy/container/README.md.
# Both images are of the same Debian release, so that the program finds the C library that it was linked with. Pin their digests
# where you build for others.

FROM docker.io/library/rust:1.95-slim-trixie AS build
WORKDIR /src
COPY . .
# Features of the crate, as `cargo build --features` takes them.
ARG FEATURES=""
# What the metric scoreline_build_info tells: --build-arg SCORELINE_REVISION="$(git rev-parse --short HEAD)".
ARG SCORELINE_REVISION=unknown
# "dev" builds in a third of the time, for trying things out.
ARG PROFILE=release
# What is downloaded and compiled is kept beside the image, so the next build compiles only what changed. The folder of the state
# is made here because an image without a shell can't make it: a volume that is mounted there gets its owner.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    SCORELINE_REVISION="$SCORELINE_REVISION" \
        cargo build --locked --bin scoreline --profile "$PROFILE" --features "$FEATURES" \
    && install -D "target/$([ "$PROFILE" = dev ] && echo debug || echo "$PROFILE")/scoreline" /image/usr/local/bin/scoreline \
    && install -D -m 0644 LICENSE /image/usr/share/doc/scoreline/copyright \
    && install -d -m 0700 -o 65532 -g 65532 /image/var/lib/scoreline

# Debian's C library, its certificates, and no shell: nothing that scoreline doesn't need. Time zones are in the program.
FROM gcr.io/distroless/cc-debian13:nonroot
ARG SCORELINE_REVISION=unknown
ARG VERSION=unknown
LABEL org.opencontainers.image.title="scoreline" \
      org.opencontainers.image.description="Carries files through a remote batch-scoring service: each one never lost, started at most once, delivered whole" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$SCORELINE_REVISION"
COPY --from=build /image/ /
# The only place that is written to besides the folders of your feeds, SQLite's own temporary files included.
ENV TMPDIR=/var/lib/scoreline
VOLUME /var/lib/scoreline
# By number, so that Kubernetes can see that it isn't root.
USER 65532:65532
# Where http.listen says so; by default it listens on the container's own loopback alone.
EXPOSE 8080
# It finishes what is under way, for up to node.stop_grace (30 s): let the container have that long, `--stop-timeout 45`.
STOPSIGNAL SIGTERM
# Asks where the config says that it listens. Fails when work that could be done isn't, not when a remote service is away.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["/usr/local/bin/scoreline", "health"]
ENTRYPOINT ["/usr/local/bin/scoreline"]
CMD ["serve"]

# Two images, each without root: `registry`, the registry alone, and `local`, which makes the run folder of the local gateway and
# brings `capi`. docker-compose.yaml uses both; Envoy and moto are the official images. A third, `plugin`, is the filter alone, in the
# form in which Istio and Envoy Gateway fetch it: one layer with plugin.wasm.
#
#   docker build --target registry -t membrane-registry .

# The version of rust-toolchain.toml, on the Debian of the runtime image: what is linked here must load there.
FROM rust:1.95.0-slim-trixie AS build
# rust-toolchain.toml asks for the linters too, which nothing needs here.
ENV RUSTUP_TOOLCHAIN=1.95.0
RUN rustup target add wasm32-wasip1
WORKDIR /src
COPY . .
# The commands of the Makefile. The caches outlive a build; what was built does not lie in them.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --locked --profile wasm -p filter --target wasm32-wasip1 \
    && cargo build --locked --release -p registry -p capi -p tests --bins \
    && mkdir -p /out/bin /out/dist \
    && cp target/release/membrane-registry target/release/capi target/release/local-gateway /out/bin/ \
    && cp target/wasm32-wasip1/wasm/membrane_filter.wasm /out/dist/membrane.wasm

FROM scratch AS plugin
COPY --from=build /out/dist/membrane.wasm /plugin.wasm

FROM debian:trixie-20260803-slim@sha256:3a39a0592364683e6bab97937b72cad5a8fa6dcbbee90edb3bb48c7f8e94f258 AS registry
COPY --from=build /out/bin/membrane-registry /usr/local/bin/
WORKDIR /membrane
USER 65532:65532
ENTRYPOINT ["membrane-registry"]

FROM registry AS local
COPY --from=build /out/bin/local-gateway /out/bin/capi /usr/local/bin/
COPY --from=build /out/dist/membrane.wasm /membrane/dist/
ENTRYPOINT ["local-gateway"]

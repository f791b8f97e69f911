# An OCI image of the native module, for an image volume or `COPY --from`:
#   make module && docker build -f envoy/mesh/module.Dockerfile -t REGISTRY/envoy-healthz/module:0.1.0 dist
# With --build-arg BASE=busybox:1.37 an init container can copy the file out of it.
ARG BASE=scratch
FROM ${BASE}
COPY libenvoy_healthz.so /

